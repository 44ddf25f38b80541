"""`glm mcp`: an MCP server over standard input and output, in front of a running server."""

from __future__ import annotations

import typer

from glm_crush.cli.options import settings_from
from glm_crush.cli.server_options import ApiKeyOption, UrlOption

__all__ = ["mcp"]


def mcp(ctx: typer.Context, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Offer a running server's models to an MCP client over stdio.

    A client's configuration names the command: glm, with the argument mcp.
    """
    import asyncio

    from glm_crush.serving.mcp.stdio import serve_stdio

    asyncio.run(serve_stdio(settings_from(ctx, client__url=url, api__key=api_key)))
