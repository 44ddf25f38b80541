"""MCP over standard input and output: what a desktop client starts as a command.

Above: `glm mcp`. Below: the tools, over HTTP against a running server.
"""

from __future__ import annotations

from mcp.server.stdio import stdio_server

from glm_crush.serving.mcp.backend import HttpBackend
from glm_crush.serving.mcp.tools import mcp_server

__all__ = ["serve_stdio"]


async def serve_stdio(url: str, key: str | None) -> None:
    """Until standard input ends; `url` is the server that does the work, `key` opens it."""
    backend = HttpBackend(url, key)
    server = mcp_server(backend)
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        await backend.close()
