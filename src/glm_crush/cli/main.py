"""The root of the command `glm`: its verbs, its global options, and how errors are shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glm_crush.cli import (
    batch,
    bench,
    chat,
    config,
    cp,
    embed,
    guard,
    inspect,
    keys,
    list_models,
    logs,
    mcp,
    merge,
    perplexity,
    ps,
    pull,
    quantize,
    rerank,
    rm,
    run,
    selfcheck,
    serve,
    show,
    stop,
    version,
)
from glm_crush.cli.options import root_options
from glm_crush.cli.verbs import Verbs, examples

__all__ = ["app", "main"]

_EXAMPLES = examples(
    ('glm run "Why is the sky blue?"', "one answer, from the default model"),
    ('git diff | glm run smollm2:135m "Explain"', "a prompt with standard input"),
    ("glm chat", "a conversation; /? lists its commands"),
    ("glm serve --port 4600", "the OpenAI API on this machine"),
    ("glm pull hf:org/name", "fetch a model; then glm list, glm inspect"),
    ("glm bench smollm2:135m --json", "how fast it is here"),
)

_TALK, _SERVER, _MODELS, _MEASURE, _SETUP = "Talk", "A running server", "Models", "Measure", "Set up"

app = Verbs(
    name="glm",
    help="Run language models of the GLM family, and others, on this machine.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Configuration file; default: GLM_HOME/config.toml.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting (see glm config show).")
    ] = None,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run language models of the GLM family, and others, on this machine."""
    ctx.obj = root_options(config_file, assignments or [])


app.command("run", rich_help_panel=_TALK)(run.run)
app.command("chat", rich_help_panel=_TALK)(chat.chat)
app.command("serve", rich_help_panel=_TALK)(serve.serve)
app.command("embed", rich_help_panel=_TALK)(embed.embed)
app.command("rerank", rich_help_panel=_TALK)(rerank.rerank)
app.command("ps", rich_help_panel=_SERVER, epilog=ps.EXAMPLES)(ps.ps)
app.command("stop", rich_help_panel=_SERVER, epilog=stop.EXAMPLES)(stop.stop)
app.command("logs", rich_help_panel=_SERVER, epilog=logs.EXAMPLES)(logs.logs)
app.command("mcp", rich_help_panel=_SERVER)(mcp.mcp)
app.add_typer(batch.app, name="batch", rich_help_panel=_SERVER)
app.command("pull", rich_help_panel=_MODELS)(pull.pull)
app.command("list", rich_help_panel=_MODELS)(list_models.list_models)
app.command("ls", hidden=True)(list_models.list_models)
app.command("show", rich_help_panel=_MODELS)(show.show)
app.command("cp", rich_help_panel=_MODELS)(cp.cp)
app.command("rm", rich_help_panel=_MODELS)(rm.rm)
app.command("quantize", rich_help_panel=_MODELS)(quantize.quantize)
app.command("merge", rich_help_panel=_MODELS)(merge.merge)
app.command("inspect", rich_help_panel=_MODELS)(inspect.inspect)
app.command("bench", rich_help_panel=_MEASURE)(bench.bench)
app.command("perplexity", rich_help_panel=_MEASURE)(perplexity.perplexity)
app.command("selfcheck", rich_help_panel=_MEASURE)(selfcheck.selfcheck)
app.add_typer(keys.app, name="keys", rich_help_panel=_SETUP)
app.add_typer(config.app, name="config", rich_help_panel=_SETUP)
app.command("guard", rich_help_panel=_SETUP)(guard.guard)
app.command("version", rich_help_panel=_SETUP)(version.version)


def main() -> None:
    """Run the command; an error of ours is one line and exit code 1, misuse is exit code 2."""
    from glm_crush.errors import GlmError

    try:
        app()
    except GlmError as error:
        from glm_crush.cli.console import print_error

        print_error(str(error))
        sys.exit(1)
