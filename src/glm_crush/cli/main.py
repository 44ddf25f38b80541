"""The root of the command `glm`: its verbs, its global options, and how errors are shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from glm_crush.cli.options import root_options
from glm_crush.cli.verbs import DeferredVerb, DeferredVerbs, Verbs, examples

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


class _Root(DeferredVerbs):
    deferred: ClassVar[Mapping[str, DeferredVerb]] = {
        "run": DeferredVerb("glm_crush.cli.run:run", _TALK),
        "chat": DeferredVerb("glm_crush.cli.chat:chat", _TALK),
        "serve": DeferredVerb("glm_crush.cli.serve:serve", _TALK),
        "embed": DeferredVerb("glm_crush.cli.embed:embed", _TALK),
        "rerank": DeferredVerb("glm_crush.cli.rerank:rerank", _TALK),
        "ps": DeferredVerb("glm_crush.cli.ps:ps", _SERVER),
        "stop": DeferredVerb("glm_crush.cli.stop:stop", _SERVER),
        "logs": DeferredVerb("glm_crush.cli.logs:logs", _SERVER),
        "mcp": DeferredVerb("glm_crush.cli.mcp:mcp", _SERVER),
        "pull": DeferredVerb("glm_crush.cli.pull:pull", _MODELS),
        "list": DeferredVerb("glm_crush.cli.list_models:list_models", _MODELS),
        "ls": DeferredVerb("glm_crush.cli.list_models:list_models", _MODELS, hidden=True),
        "show": DeferredVerb("glm_crush.cli.show:show", _MODELS),
        "cp": DeferredVerb("glm_crush.cli.cp:cp", _MODELS),
        "rm": DeferredVerb("glm_crush.cli.rm:rm", _MODELS),
        "quantize": DeferredVerb("glm_crush.cli.quantize:quantize", _MODELS),
        "merge": DeferredVerb("glm_crush.cli.merge:merge", _MODELS),
        "inspect": DeferredVerb("glm_crush.cli.inspect:inspect", _MODELS),
        "bench": DeferredVerb("glm_crush.cli.bench:bench", _MEASURE),
        "perplexity": DeferredVerb("glm_crush.cli.perplexity:perplexity", _MEASURE),
        "selfcheck": DeferredVerb("glm_crush.cli.selfcheck:selfcheck", _MEASURE),
        "guard": DeferredVerb("glm_crush.cli.guard:guard", _SETUP),
        "version": DeferredVerb("glm_crush.cli.version:version", _SETUP),
        "batch": DeferredVerb("glm_crush.cli.batch:app", _SERVER),
        "keys": DeferredVerb("glm_crush.cli.keys:app", _SETUP),
        "config": DeferredVerb("glm_crush.cli.config:app", _SETUP),
    }


app = Verbs(
    name="glm",
    cls=_Root,
    help="Run language models of the GLM family, and others, on this machine.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from glm_crush.cli.version import version

        version()
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


def main() -> None:
    """Run the command; an error of ours is one line and exit code 1, misuse is exit code 2."""
    from glm_crush.errors import GlmError

    try:
        app()
    except GlmError as error:
        from glm_crush.cli.console import print_error

        print_error(str(error))
        sys.exit(1)
