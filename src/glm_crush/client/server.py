"""The server itself: whether it answers, how busy it is.

Above: the two clients. Below: nothing but the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm_crush.client.call import Answer, Call, given, read_as
from glm_crush.client.result import Result

__all__ = ["Load", "ModelLoad", "Readiness", "health", "load", "metrics", "ready", "request", "version"]


class Readiness(Result, frozen=True):
    """Whether requests can be answered; `stopped` names the models that cannot."""

    status: str
    models: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether all models can."""
        return self.status == "ready"


class ModelLoad(Result, frozen=True):
    """How busy a model is: replies being computed, replies that wait, and the share of the KV cache in use."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0


class Load(Result, frozen=True):
    """How busy each model is."""

    models: Mapping[str, ModelLoad]


class _Status(Result, frozen=True):
    status: str


class _Version(Result, frozen=True):
    version: str


def health() -> Call[bool]:
    """Whether the process answers; one that does not raises UnreachableError."""
    read = read_as(_Status)
    return Call(method="GET", path="/health", parse=lambda answer: read(answer).status == "ok")


def ready() -> Call[Readiness]:
    """Whether requests can be answered."""
    return Call(method="GET", path="/ready", parse=read_as(Readiness), accepts=(503,))


def version() -> Call[str]:
    """The server's version."""
    read = read_as(_Version)
    return Call(method="GET", path="/version", parse=lambda answer: read(answer).version)


def load() -> Call[Load]:
    """How busy each model is."""
    return Call(method="GET", path="/load", parse=read_as(Load))


def metrics() -> Call[str]:
    """Counters and histograms, in Prometheus's text format."""

    def text(answer: Answer) -> str:
        return answer.content.decode()

    return Call(method="GET", path="/metrics", parse=text)


def request(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    query: Mapping[str, str | int] | None = None,
    repeatable: bool = False,
) -> Call[Any]:
    """Any route that answers in JSON, for those that have no method of their own.

        client.request("POST", "/v1/messages/count_tokens", {"messages": [...]})

    Args:
        method: "GET", "POST", ...
        path: beginning with a slash.
        body: sent as JSON.
        query: parameters behind the path.
        repeatable: whether doing it twice does no harm, so that it may be sent again after a broken connection.
    """
    parse = read_as(object)
    return Call(method=method, path=path, body=body, parse=parse, repeatable=repeatable, **given(query=query))
