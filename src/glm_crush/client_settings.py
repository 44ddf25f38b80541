"""The settings of whoever talks to a server: the Python client, and the verbs that ask a running server.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm_crush.config_field import setting

__all__ = ["ClientSettings"]


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How servers are reached."""

    url: str | None = setting(None, "server that clients talk to; unset = this machine, at api.port")
    timeout_seconds: float = setting(600.0, "a reply of which nothing comes for so long is given up", low=0.001)
    connect_seconds: float = setting(5.0, "a connection that takes longer is given up", low=0.001)
    max_retries: int = setting(2, "how often a request that may be repeated is sent again", low=0)
    max_connections: int = setting(100, "connections that one client holds at a time", low=1)
