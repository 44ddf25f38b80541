"""`glm inspect`: what a model is, what it needs, and how fast it could be here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm_crush.cli.options import JsonOption, ModelArgument, ThreadsOption, settings_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from glm_crush.models.compiler import CompiledModel
    from glm_crush.weights.inspector import CheckpointReport, TensorReport
    from glm_crush.weights.packed_file import PackedEntry

__all__ = ["inspect"]

_CONTEXTS = (4_096, 32_768, 131_072)


def inspect(
    ctx: typer.Context,
    model: ModelArgument,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a model: name, files, licence, memory per format, and the bound on its speed here."""
    from glm_crush.cli.console import print_warning
    from glm_crush.cli.models import find_model

    report, listing, needs = _read(find_model(settings_from(ctx), model), threads)
    facts = _facts(model, report)
    if as_json:
        import json

        extra = {"tensors": [vars(tensor) for tensor in listing]} if tensors else {}
        typer.echo(json.dumps({**facts, **needs, **extra}, indent=2, default=str))
        return
    _print_facts(facts)
    if "unsupported" in needs:
        print_warning(needs["unsupported"])
    else:
        _print_needs(needs)
    if tensors:
        _print_tensors(listing)


def _read(path: Path, threads: int | None) -> tuple[CheckpointReport, Sequence[TensorReport], dict[str, Any]]:
    """What the files say, their tensors, and what running them takes."""
    from glm_crush.errors import ModelError
    from glm_crush.models.compiler import compile_model
    from glm_crush.weights import inspector
    from glm_crush.weights.checkpoint import open_checkpoint
    from glm_crush.weights.pack import packed_entries
    from glm_crush.weights.packed_file import PackedFile
    from glm_crush.weights.plan import WEIGHT_FORMATS

    report: CheckpointReport
    if path.suffix == ".glm":
        packed = PackedFile.open(path)
        report, listing = inspector.inspect_packed(packed), inspector.list_packed_tensors(packed)
    else:
        checkpoint = open_checkpoint(path)
        report, listing = inspector.inspect_checkpoint(checkpoint), inspector.list_tensors(checkpoint)
    try:
        if path.suffix == ".glm":
            compiled = compile_model(packed.header.config, packed.header.generation_config)
            formats = {packed.header.weight_format: packed.entries()}
        else:
            compiled = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
            formats = {name: packed_entries(checkpoint, compiled.plan, name) for name in WEIGHT_FORMATS}
    except ModelError as error:
        return report, listing, {"loader": None, "unsupported": str(error)}
    return report, listing, _needs(compiled, formats, threads)


def _facts(name: str, report: CheckpointReport) -> dict[str, Any]:
    from glm_crush.weights.inspector import explain_name

    said = {purpose.suffix.lower(): purpose for purpose in explain_name(f"{name} {report.path.name}")}
    return {
        "model": name,
        "path": str(report.path),
        "format": report.format,
        "name_says": {purpose.suffix: purpose.meaning for purpose in said.values()},
        "model_type": report.model_type,
        "architectures": list(report.architectures),
        "parameters": report.num_parameters,
        "stored_types": dict(report.dtypes),
        "vocab_size": report.vocab_size,
        "context_length": report.context_length,
        "chat_template": report.has_chat_template,
        "licence": report.licence,
        "files": {path.name: size for path, size in report.files},
        "total_bytes": report.num_bytes,
        "hardware": _hardware(report.format),
    }


def _hardware(file_format: str) -> str:
    if file_format == "packed":
        return "any CPU here, with this engine"
    if file_format == "gguf":
        return "any CPU here; NVIDIA, AMD and Apple through llama.cpp"
    return "any CPU here; NVIDIA and AMD (ROCm) through vLLM; Apple through MLX after conversion"


def _needs(
    compiled: CompiledModel, formats: Mapping[str, Sequence[PackedEntry]], threads: int | None
) -> dict[str, Any]:
    """Loader, memory and roofline, for each weight format with what it stores."""
    from glm_crush.cli.roofline import measure_bandwidth
    from glm_crush.engine.cache_plan import kv_bytes_per_token, kv_dtype_beside
    from glm_crush.engine.machine import physical_cores
    from glm_crush.models.footprint import packed_footprint

    num_threads = threads or physical_cores()
    contexts = [context for context in _CONTEXTS if context <= compiled.max_position] or [compiled.max_position]
    per_token = {kind: kv_bytes_per_token(compiled.program, kind) for kind in ("int8", "bf16", "f32")}
    measured: dict[int, float] = {}  # several formats may come to the same
    weights = {}
    for name, entries in formats.items():
        footprint = packed_footprint(compiled, entries)
        read = footprint.read_bytes_per_token
        if read not in measured:
            measured[read] = measure_bandwidth(read, num_threads)
        stored_as = _stored_as(entries)
        kv_dtype = kv_dtype_beside(stored_as.keys(), "auto")
        weights[name] = {
            "stored_as": stored_as,
            "kv_dtype": kv_dtype,
            "kv_cache_bytes": {str(context): context * per_token[kv_dtype] for context in contexts},
            "weight_bytes": footprint.weight_bytes,
            "read_bytes_per_token": read,
            "bandwidth_bytes_per_second": round(measured[read]),
            "roofline_tokens_per_second": round(measured[read] / read, 2),
        }
    return {
        "loader": f"native engine, family {compiled.family}",
        "threads": num_threads,
        "kv_cache_bytes_per_token": per_token,
        "weights": weights,
    }


def _stored_as(entries: Sequence[PackedEntry]) -> dict[str, float]:
    """The share of the matrices' values that each packed format holds, largest first."""
    values: dict[str, int] = {}
    for entry in entries:
        if entry.experts:  # vectors and blobs have none
            values[entry.format] = values.get(entry.format, 0) + entry.experts * entry.rows * entry.cols
    total = sum(values.values())
    return {name: round(values[name] / total, 4) for name in sorted(values, key=values.__getitem__, reverse=True)}


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from glm_crush.cli.console import format_bytes, format_count, standard_output

    total = sum(facts["stored_types"].values()) or 1
    types = ", ".join(f"{kind} {100 * count / total:.0f} %" for kind, count in facts["stored_types"].items())
    rows = [
        ("model", facts["model"]),
        ("path", facts["path"]),
        ("files", f"{len(facts['files'])}, {format_bytes(facts['total_bytes'])} ({facts['format']})"),
        ("family", f"{facts['model_type']} ({', '.join(facts['architectures']) or 'no architecture named'})"),
        ("parameters", f"{format_count(facts['parameters'])} ({types})"),
        ("vocabulary", f"{facts['vocab_size'] or 'not stated'}"),
        ("context", f"{facts['context_length'] or 'not stated'} tokens"),
        ("chat template", "yes" if facts["chat_template"] else "no"),
        ("licence", facts["licence"] or "not stated in the files"),
        ("runs on", facts["hardware"]),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    for index, (suffix, meaning) in enumerate(facts["name_says"].items()):
        table.add_row("the name says" if index == 0 else "", f"[bold]{escape(suffix)}[/]  {escape(meaning)}")
    standard_output().print(table)


def _print_needs(needs: dict[str, Any]) -> None:
    from rich.table import Table

    from glm_crush.cli.console import format_bytes, standard_output

    console = standard_output()
    console.print(f"\n[cyan]loader[/]  {needs['loader']}")
    contexts = next(iter(needs["weights"].values()))["kv_cache_bytes"]
    table = Table(title=f"memory and bound on speed here ({needs['threads']} threads)", title_justify="left")
    table.add_column("weights", style="bold")
    table.add_column("stored as")
    table.add_column("size", justify="right")
    for context in contexts:
        table.add_column(f"with {int(context):,} tokens", justify="right")
    table.add_column("read per token", justify="right")
    table.add_column("bandwidth", justify="right")
    table.add_column("tokens/s at most", justify="right", style="green")
    for name, row in needs["weights"].items():
        table.add_row(
            name,
            ", ".join(row["stored_as"]),
            format_bytes(row["weight_bytes"]),
            *(format_bytes(row["weight_bytes"] + cache) for cache in row["kv_cache_bytes"].values()),
            format_bytes(row["read_bytes_per_token"]),
            f"{row['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s",
            _rate(row["roofline_tokens_per_second"]),
        )
    console.print(table)
    caches = ", ".join(f"{format_bytes(size)} ({kind})" for kind, size in needs["kv_cache_bytes_per_token"].items())
    console.print(
        f"[dim]The cache takes {caches} per token (--kv-dtype), by default int8 beside 4 and 8-bit weights. "
        "Speed is bounded by reading the weights once per token; bandwidth was just measured.[/]"
    )


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.{0 if tokens_per_second >= 10 else 2}f}"


def _print_tensors(tensors: Sequence[TensorReport]) -> None:
    from rich.table import Table

    from glm_crush.cli.console import format_count, standard_output

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("tensor", "shape", "type", "values"):
        table.add_column(column, justify="right" if column == "values" else "left", overflow="fold")
    for tensor in tensors:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        table.add_row(tensor.name, shape, tensor.dtype, format_count(tensor.num_values))
    standard_output().print(table)
