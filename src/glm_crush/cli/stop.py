"""`glm stop`: take a model out of the memory of a running server, or stop the server itself."""

from __future__ import annotations

from typing import Annotated

import typer

from glm_crush.cli.options import settings_from
from glm_crush.cli.server_options import ApiKeyOption, UrlOption, open_client
from glm_crush.cli.verbs import examples

__all__ = ["EXAMPLES", "stop"]

EXAMPLES = examples(
    ("glm stop smollm2:135m", "its memory is free when its requests have ended"),
    ("glm stop --server", "the server itself; requests that run end first"),
    ("glm stop --server --delay 10 --url http://10.0.0.5:4600", "load balancers look elsewhere meanwhile"),
)


def stop(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A model that glm ps shows.")] = None,
    server: Annotated[bool, typer.Option("--server", help="Stop the server itself; needs the scope admin.")] = False,
    delay: Annotated[
        float,
        typer.Option("--delay", metavar="SECONDS", min=0, max=3600, help="With --server: take requests for so long."),
    ] = 0.0,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Take a model out of a running server's memory, or stop the server; requests that run end first.

    Stopping the server on this machine needs no key: one is made when it is first needed.
    """
    if (model is None) != server:
        raise typer.BadParameter("give a model, or --server, and not both")
    if delay and not server:
        raise typer.BadParameter("--delay goes with --server")
    if model is None:
        _stop_server(ctx, delay, url, api_key)
    else:
        _stop_model(ctx, model, url, api_key)


def _stop_model(ctx: typer.Context, model: str, url: str | None, api_key: str | None) -> None:
    from rich.markup import escape

    from glm_crush.cli.console import standard_error
    from glm_crush.errors import ModelNotFoundError

    with open_client(ctx, url, api_key) as client:
        try:
            client.models.unload(model)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{model} is not in memory at {client.url}; glm ps shows what is") from error
        standard_error().print(f"[green]{escape(model)}[/] is out of memory; it comes back when it is asked for")


def _stop_server(ctx: typer.Context, delay_seconds: float, url: str | None, api_key: str | None) -> None:
    from glm_crush.cli.console import standard_error
    from glm_crush.cli.operator_key import as_operator

    settings = settings_from(ctx, client__url=url, api__key=api_key)
    told = as_operator(settings, lambda client: client.stop_server(delay_seconds=delay_seconds))
    when = f"in {told.delay_seconds:.0f} s" if told.delay_seconds >= 1 else "now"
    standard_error().print(
        f"[green]{settings.server_url}[/] stops {when}; what runs then may go on for "
        f"{told.shutdown_timeout_seconds:.0f} s"
    )
