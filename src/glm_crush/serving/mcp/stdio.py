"""MCP over standard input and output: what a desktop client starts as a command.

Above: `glm mcp`. Below: the tools, over HTTP against a running server.
"""

from __future__ import annotations

from mcp.server.stdio import stdio_server

from glm_crush.client import AsyncClient
from glm_crush.config import Settings
from glm_crush.serving.mcp.backend import HttpBackend
from glm_crush.serving.mcp.tools import mcp_server

__all__ = ["serve_stdio"]


async def serve_stdio(settings: Settings) -> None:
    """Until standard input ends; the configured server does the work."""
    async with AsyncClient.from_settings(settings) as client, stdio_server() as (read, write):
        server = mcp_server(HttpBackend(client))
        await server.run(read, write, server.create_initialization_options())
