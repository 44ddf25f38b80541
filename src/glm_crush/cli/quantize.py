"""`glm quantize`: write a model in a packed format, and say what it costs in quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glm_crush.cli.options import JsonOption, ModelArgument, ThreadsOption, WeightFormat, settings_from

if TYPE_CHECKING:
    from glm_crush.config import Settings

__all__ = ["quantize"]


def quantize(
    ctx: typer.Context,
    model: ModelArgument,
    weight_format: Annotated[WeightFormat, typer.Option("--format", "-f", help="What to write.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.glm", help="Where to write it.")],
    text: Annotated[
        Path | None,
        typer.Option(
            "--perplexity", metavar="TEXT", exists=True, dir_okay=False, help="Compare perplexity on this text."
        ),
    ] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows to score; default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one packed .glm file that every verb takes as MODEL.

    4-bit and 8-bit blocks of the source are kept as they are where the format allows it. With --perplexity the packed
    file and the source are both measured on a text.
    """
    from glm_crush.cli.console import transfer_bar
    from glm_crush.cli.models import find_model
    from glm_crush.errors import ConfigError
    from glm_crush.models.loader import pack_model

    settings = settings_from(ctx, crush__threads=threads)
    if output.suffix != ".glm":
        raise typer.BadParameter(
            f"{output} does not end in .glm, by which packed files are known", param_hint="--output"
        )
    if output.exists() and not force:
        raise ConfigError(f"{output} exists; give another name, or --force to replace it")
    path = find_model(settings, model)
    if path.suffix == ".glm":
        raise ConfigError(f"{path} is packed already; give the model it was made from")
    with transfer_bar("packing") as progress:
        pack_model(path, output, weight_format=str(weight_format), progress=lambda d, t: progress(output.name, d, t))
    report = _report(settings, path, output, text, windows)
    if as_json:
        import json

        typer.echo(json.dumps({"model": model, "weight_format": str(weight_format), **report}))
    else:
        _print_table(report)


def _report(settings: Settings, path: Path, output: Path, text: Path | None, windows: int | None) -> dict[str, Any]:
    """Sizes of source and result, of all weights in float32, and both perplexities."""
    from glm_crush.cli.models import load_packed
    from glm_crush.models.footprint import weight_footprint
    from glm_crush.weights.checkpoint_files import checkpoint_files

    packed = load_packed(settings, output)
    report: dict[str, Any] = {
        "output": str(output),
        "output_bytes": output.stat().st_size,
        "source_bytes": sum(file.stat().st_size for file in checkpoint_files(path)),
        "f32_bytes": weight_footprint(packed.compiled, "f32").weight_bytes,
    }
    if text is not None:
        source = load_packed(settings, path)
        report["perplexity"] = _perplexity(settings, packed, text, windows)
        report["source_perplexity"] = _perplexity(settings, source, text, windows)
    return report


def _perplexity(settings: Settings, loaded: Any, text: Path, windows: int | None) -> float:
    from glm_crush.cli.console import step_bar
    from glm_crush.cli.models import read_text
    from glm_crush.cli.perplexity_run import measure_perplexity

    with step_bar("perplexity", "windows") as progress:
        result = measure_perplexity(loaded, settings.crush, read_text(text), max_windows=windows, progress=progress)
    return result.value


def _print_table(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from glm_crush.cli.console import format_bytes, standard_output

    size, source, f32 = (report[key] for key in ("output_bytes", "source_bytes", "f32_bytes"))
    table = Table(title=escape(report["output"]), title_justify="left")
    for column in ("", "packed", "source", "packed against source"):
        table.add_column(column, justify="left" if column == "" else "right")
    table.add_row("size", format_bytes(size), format_bytes(source), f"{100 * size / source:.1f} %")
    table.add_row("size in float32", "", format_bytes(f32), f"{100 * size / f32:.1f} %")
    if "perplexity" in report:
        ours, theirs = report["perplexity"], report["source_perplexity"]
        table.add_row("perplexity", f"{ours:.4f}", f"{theirs:.4f}", f"{100 * (ours / theirs - 1):+.2f} %")
    standard_output().print(table)
