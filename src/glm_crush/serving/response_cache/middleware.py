"""ASGI middleware that answers from the cache, or lets the application answer once for all who ask the same.

Above: the composition root; it stands behind admission, so every caller has been let in and counted. Below: the caches.
A reply tells in `x-glm-cache` where it comes from: hit, joined (a running computation), semantic (the answer of a
similar question), miss, or bypass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glm_crush.cache.exact import ExactCache
from glm_crush.cache.reply import CachedReply
from glm_crush.serving.middleware import Application, Message, Receive, Scope, Send
from glm_crush.serving.response_cache.flight import Flight
from glm_crush.serving.response_cache.policy import (
    ReplyIdentity,
    cache_wish,
    is_cacheable_path,
    may_keep,
    read_object,
)
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.tenant import LOCAL_TENANT

if TYPE_CHECKING:
    from glm_crush.cache.semantic.cache import Lookup
    from glm_crush.serving.response_cache.semantic import SemanticTier

__all__ = ["ResponseCaching"]


class ResponseCaching:
    """The caches before the routes.

    Args:
        models: whose names and fingerprints are part of every key.
        outcomes: counts of hit, joined, semantic, miss and bypass, which the caller reads.
        semantic: knows of similar questions; None = only the same ones are answered from the cache.
    """

    def __init__(
        self,
        app: Application,
        *,
        cache: ExactCache,
        models: ServedModels,
        outcomes: Counter[str],
        semantic: SemanticTier | None = None,
    ) -> None:
        self._app = app
        self._cache = cache
        self._semantic = semantic
        self._models = models
        self._outcomes = outcomes
        self._flights: dict[str, Flight] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; what cannot be cached passes through."""
        if scope["type"] != "http" or not is_cacheable_path(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        wish = cache_wish(dict(scope["headers"]))
        body = await _whole_body(receive)
        if body is None:
            return
        request = read_object(body) if wish.read or wish.write else None
        identity = None if request is None else await self._identity(scope, request, force=wish.force)
        if request is None or identity is None:
            self._outcomes["bypass"] += 1
            await self._app(scope, _replayed(body, receive), _with_outcome(send, b"bypass"))
            return
        key = identity.key(request)
        reply = await self._cache.find(key) if wish.read else None
        if reply is not None:
            self._outcomes["hit"] += 1
            await _send_reply(reply, send, b"hit")
            return
        lookup = None
        if self._semantic is not None and not self._can_join(key):
            lookup = await self._semantic.look_up(identity, request, wish)
        if lookup is not None and lookup.nearest is not None and lookup.gives_answer:
            reply = await self._cache.find(lookup.nearest.reply_key)
            if reply is not None:
                self._outcomes["semantic"] += 1
                await _send_reply(reply, send, b"semantic", similarity=lookup.similarity)
                return
        await self._fly(key, scope, body, receive, send, join=wish.read, lookup=lookup)

    def _can_join(self, key: str) -> bool:
        flight = self._flights.get(key)
        return flight is not None and flight.can_be_joined

    async def _fly(
        self, key: str, scope: Scope, body: bytes, receive: Receive, send: Send, *, join: bool, lookup: Lookup | None
    ) -> None:
        if join and self._can_join(key):
            self._outcomes["joined"] += 1
            await self._flights[key].listen(_with_outcome(send, b"joined"), receive)
            return

        admission = scope.get("state", {}).get("admission")

        def keep(content_type: str, whole: bytes) -> None:
            # What the guard found something in is found again each time, so that each time is written down.
            if not _is_in_order(content_type, whole) or (admission is not None and admission.findings):
                return
            self._cache.keep(key, content_type, whole)
            if self._semantic is not None and lookup is not None:
                self._semantic.learn(lookup, scope["path"], key, content_type, whole)

        self._outcomes["miss"] += 1
        flight = self._flights[key] = Flight(self._app, scope, body, on_complete=keep)
        try:
            await flight.listen(_with_outcome(send, b"miss"), receive)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _identity(self, scope: Scope, request: Mapping[str, Any], *, force: bool) -> ReplyIdentity | None:
        """None: the answer may be another one next time, or the request is one that the route refuses.

        Raises:
            AccessDeniedError: the caller's key is not for this model, whoever asked for the kept answer.
        """
        name = request.get("model")
        if name is not None and not isinstance(name, str):
            return None
        identity = self._models.identity(name)
        if identity is None:
            return None
        model, fingerprint, greedy_default = identity
        if not force and not may_keep(scope["path"], request, greedy_default=greedy_default):
            return None
        admission = scope.get("state", {}).get("admission")
        if admission is not None:
            admission.check_model(model)  # who may not ask a model may not have its kept answers either
        return ReplyIdentity(
            path=scope["path"],
            tenant=LOCAL_TENANT if admission is None else str(admission.tenant),
            model=model,
            fingerprint=fingerprint,
            epoch=await self._cache.epoch(),
        )


def _is_in_order(content_type: str, body: bytes) -> bool:
    """A stream that ended with an error has status 200 too."""
    if content_type.startswith("text/event-stream"):
        return b'"error"' not in body[-2000:]
    return bool(body) and b'"error":"' not in body[:40]


async def _whole_body(receive: Receive) -> bytes | None:
    """None: the client has gone."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _with_outcome(send: Send, outcome: bytes) -> Send:
    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"x-glm-cache", outcome)]}
        await send(message)

    return tagged


async def _send_reply(reply: CachedReply, send: Send, outcome: bytes, similarity: float | None = None) -> None:
    headers = [
        (b"content-type", reply.content_type.encode("latin-1")),
        (b"content-length", str(len(reply.body)).encode()),
        (b"x-glm-cache", outcome),
        (b"age", str(max(0, int(time.time() - reply.created_at))).encode()),
    ]
    if similarity is not None:
        headers.append((b"x-glm-cache-similarity", f"{similarity:.4f}".encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
