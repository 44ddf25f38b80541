"""`glm bench`: how fast a model reads prompts and writes replies on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm_crush.cli.options import (
    JsonOption,
    KvDtypeOption,
    ModelArgument,
    ThreadsOption,
    WeightFormatOption,
    settings_from,
)

if TYPE_CHECKING:
    from glm_crush.cli.bench_run import BenchShape
    from glm_crush.config import Settings
    from glm_crush.models.loader import LoadedModel

__all__ = ["bench"]


def bench(
    ctx: typer.Context,
    model: ModelArgument,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Tokens of each prompt; 0 = no prefill figure.")] = 512,
    generate_tokens: Annotated[int, typer.Option(min=0, help="Tokens of each reply; 0 = no decode figure.")] = 128,
    depth: Annotated[int, typer.Option(min=0, help="Tokens in the cache before decoding is timed.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at the same time; figures are their sum.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, after one that warms up.")] = 5,
    threads: ThreadsOption = None,
    weight_format: WeightFormatOption = None,
    kv_dtype: KvDtypeOption = None,
    seed: Annotated[int, typer.Option(help="Of the random prompts.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure prefill and decode in tokens per second: median, least and most of repeated runs.

    Prefill and decode are timed apart; decoding is greedy and ignores the end of text. Python's share of each step is
    included, the server's is not.
    """
    from glm_crush.cli.bench_run import BenchShape

    shape = BenchShape(
        prompt_tokens=prompt_tokens,
        generate_tokens=generate_tokens,
        depth=depth,
        batch=batch,
        repeat=repeat,
        seed=seed,
    )
    settings = settings_from(ctx, crush__threads=threads, crush__weight_format=weight_format, crush__kv_dtype=kv_dtype)
    report = _measure(settings, model, shape)
    if as_json:
        import json

        typer.echo(json.dumps(report))
    else:
        _print_table(report)


def _measure(settings: Settings, model: str, shape: BenchShape) -> dict[str, Any]:
    """The one object that `--json` prints."""
    import time
    from dataclasses import asdict, replace

    from glm_crush.cli.bench_run import run_bench
    from glm_crush.cli.console import standard_error
    from glm_crush.cli.models import find_model, load_packed
    from glm_crush.engine.build import build_engine

    path = find_model(settings, model)
    load_packed(settings, path)  # packs it if need be, which is not part of the load time
    _forget_peak_memory()
    started = time.perf_counter()
    loaded = load_packed(settings, path)
    budget = max(settings.crush.max_num_batched_tokens, shape.batch)
    context = shape.context_tokens(budget)
    crush = replace(
        settings.crush,
        kv_cache_tokens=shape.batch * (-(-context // 16) * 16),
        max_num_seqs=shape.batch,
        max_num_batched_tokens=budget,
        max_queue_size=max(settings.crush.max_queue_size, shape.batch),
        prefix_cache=False,  # a prompt that was measured before must be computed again
        speculation="off",  # replies to random prompts run in circles, which would be guessed
    )
    built = build_engine(loaded, crush, max_context=context)
    load_seconds = time.perf_counter() - started
    with standard_error().status(f"[cyan]{model}[/] ...") as status:

        def progress(part: str, run: int) -> None:
            status.update(f"[cyan]{model}[/] {part}, {f'run {run} of {shape.repeat}' if run else 'warming up'}")

        vocab_size = loaded.compiled.program.vocab_size
        times = run_bench(built.engine, shape, vocab_size=vocab_size, token_budget=budget, progress=progress)
    executor: Any = built.executor
    return {
        "model": model,
        "weight_format": _weight_format(loaded),
        "kv_dtype": built.kv_dtype,
        "kernels": executor.kernels,
        "threads": executor.num_threads,
        "prompt_tokens": shape.prompt_tokens,
        "generate_tokens": shape.generate_tokens,
        "depth": shape.depth,
        "batch": shape.batch,
        "prefill_tokens_per_second": None if times.prefill is None else asdict(times.prefill),
        "decode_tokens_per_second": None if times.decode is None else asdict(times.decode),
        "load_seconds": load_seconds,
        "weight_bytes": sum(entry.nbytes for entry in loaded.packed.entries()),
        "kv_cache_bytes": executor.cache_bytes,
        "peak_resident_bytes": _peak_resident_bytes(),
    }


def _weight_format(loaded: LoadedModel) -> str:
    """The format most of the weights have; variants count as what a user would ask for."""
    asked = {"q4a": "q4", "q8g": "q8"}
    sizes: dict[str, int] = {}
    for entry in loaded.packed.entries():
        if entry.experts:
            name = asked.get(entry.format, entry.format)
            sizes[name] = sizes.get(name, 0) + entry.rows * entry.cols * entry.experts
    return max(sizes, key=lambda name: sizes[name])


def _forget_peak_memory() -> None:
    """Start the peak anew, so that packing does not count; where the system does not allow it, it counts."""
    import contextlib

    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_resident_bytes() -> int:
    """Most memory this process has had in use, mapped weights included."""
    import resource

    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print_table(report: dict[str, Any]) -> None:
    from rich.table import Table

    from glm_crush.cli.bench_run import Spread
    from glm_crush.cli.console import format_bytes, standard_output

    console = standard_output()
    console.print(
        f"[bold]{report['model']}[/]  {report['weight_format']}, cache {report['kv_dtype']}, {report['kernels']}, "
        f"{report['threads']} threads, "
        f"batch {report['batch']}"
    )
    table = Table()
    for column in ("", "tokens", "median", "least", "most"):
        table.add_column(
            column, justify="left" if column == "" else "right", style="green" if column == "median" else ""
        )
    at_depth = f" at depth {report['depth']:,}" if report["depth"] else ""
    for name, tokens, key in (
        ("prefill", report["prompt_tokens"], "prefill_tokens_per_second"),
        (f"decode{at_depth}", report["generate_tokens"], "decode_tokens_per_second"),
    ):
        if report[key] is not None:
            spread = Spread(**report[key])
            rates = (f"{rate:,.1f} tok/s" for rate in (spread.median, spread.min, spread.max))
            table.add_row(name, f"{tokens:,}", *rates)
    console.print(table)
    console.print(
        f"[dim]load {report['load_seconds']:.2f} s, weights {format_bytes(report['weight_bytes'])}, "
        f"cache {format_bytes(report['kv_cache_bytes'])}, peak memory {format_bytes(report['peak_resident_bytes'])}[/]"
    )
