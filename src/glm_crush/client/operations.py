"""What administrators do with a server that runs: its response cache, its settings, its end; for keys with the scope
admin.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_crush.client.call import Call, read_as, read_rows
from glm_crush.client.result import Result

__all__ = [
    "CacheState",
    "ReloadedSettings",
    "ServerSetting",
    "ServerStop",
    "cache_state",
    "clear_cache",
    "reload_settings",
    "settings",
    "stop_server",
]

_CACHE = "/admin/v1/cache"


class CacheState(Result, frozen=True):
    """What the response cache holds and how often it helped.

    Attributes:
        entries, bytes: in memory. outcomes: how many requests were a "hit", "joined", "semantic", "miss" or "bypass".
        semantic: what is known of similar questions; None = only the same ones are answered.
        store_failures: how often the database or Redis could not be read or written. epoch: how often it was cleared.
    """

    entries: int = 0
    bytes: int = 0
    store_failures: int = 0
    outcomes: Mapping[str, int] = {}
    semantic: Mapping[str, Any] | None = None
    epoch: int = 0


class ReloadedSettings(Result, frozen=True):
    """What became of new settings: names of those in force now, of those that need a restart, and what failed why."""

    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    failed: Mapping[str, str] = {}


class ServerSetting(Result, frozen=True):
    """A setting with the value in force; `live`: it can change without a restart, `needs_restart`: another waits."""

    key: str
    value: bool | float | str | None = None
    origin: str = ""
    live: bool = False
    needs_restart: bool = False


class ServerStop(Result, frozen=True):
    """What is going to happen: when the server takes no more requests, and how long what runs then may go on."""

    delay_seconds: float
    shutdown_timeout_seconds: float


def cache_state() -> Call[CacheState]:
    """What the response cache holds and how often it helped."""
    return Call(method="GET", path=_CACHE, parse=read_as(CacheState))


def clear_cache() -> Call[int]:
    """Forget every kept answer, on all servers that share the cache; returns the new epoch."""
    read = read_as(CacheState)
    return Call(method="DELETE", path=_CACHE, parse=lambda answer: read(answer).epoch)


def settings() -> Call[tuple[ServerSetting, ...]]:
    """The settings in force, and which of them wait for a restart."""
    return Call(method="GET", path="/admin/v1/config", parse=read_rows(ServerSetting))


def reload_settings() -> Call[ReloadedSettings]:
    """Have the server read its configuration again and put in force what can be."""
    return Call(method="POST", path="/admin/v1/reload", parse=read_as(ReloadedSettings))


def stop_server(*, delay_seconds: float = 0.0) -> Call[ServerStop]:
    """Stop the server; what runs may end first.

    Args:
        delay_seconds: how long requests are still taken, while /ready tells load balancers to look elsewhere.
    """
    body = {"delay_seconds": delay_seconds}
    return Call(method="POST", path="/admin/v1/stop", body=body, parse=read_as(ServerStop))
