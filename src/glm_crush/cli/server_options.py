"""What the verbs that ask a running server share: where it is, the key for it, and the client.

Above: `ps`, `stop`, `logs`, `batch`, `mcp`. Below: the options of the root command, the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from glm_crush.cli.options import settings_from

if TYPE_CHECKING:
    from glm_crush.client import Client

__all__ = ["ApiKeyOption", "UrlOption", "open_client"]

UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The server; default: client.url, or this machine at api.port."),
]
ApiKeyOption = Annotated[str | None, typer.Option("--api-key", metavar="KEY", help="Its key, if it wants one.")]


def open_client(ctx: typer.Context, url: str | None, api_key: str | None) -> Client:
    """A client of the server that was named, or else configured.

    Raises:
        ConfigError: the address or a setting cannot be.
    """
    from glm_crush.client import Client

    return Client.from_settings(settings_from(ctx, client__url=url, api__key=api_key))
