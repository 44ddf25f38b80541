"""`glm mcp`: an MCP server over standard input and output, in front of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from glm_crush.cli.options import settings_from

__all__ = ["mcp"]


def mcp(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", help="The server; default: the one on this machine, at api.port.")
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Its key, if it wants one.")] = None,
) -> None:
    """Offer a running server's models to an MCP client over stdio.

    A client's configuration names the command: glm, with the argument mcp.
    """
    import asyncio

    from glm_crush.serving.mcp.stdio import serve_stdio

    settings = settings_from(ctx, api__key=api_key)
    asyncio.run(serve_stdio(url or f"http://127.0.0.1:{settings.api.port}", settings.api.key))
