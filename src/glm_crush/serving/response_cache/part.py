"""The response cache as a part of the server, with routes for its operator.

Above: `glm serve`. Below: the caches, as the settings choose them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.cache.exact import ExactCache
from glm_crush.cache.lazy_sql import LazySqlReplies
from glm_crush.cache.memory import MemoryReplies
from glm_crush.cache.reply import ReplyStore
from glm_crush.cache_settings import CacheSettings
from glm_crush.errors import ConfigError
from glm_crush.serving.json_http import json_response
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.part import ServerPart
from glm_crush.serving.response_cache.middleware import ResponseCaching
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase

if TYPE_CHECKING:
    from glm_crush.serving.response_cache.semantic import SemanticTier

__all__ = ["ResponseCache"]


class ResponseCache(ServerPart):
    """Deterministic answers kept and given again.

    Args:
        database: where they outlive a restart; None = memory alone, or Redis if the settings name one.
        chance: see `SemanticCache`.

    Raises:
        ConfigError: Redis is wanted and its client is not installed, or its URL is malformed; similar questions are to
            be answered and there is no embedding model, or a bound is none.
    """

    def __init__(
        self,
        models: ServedModels,
        settings: CacheSettings,
        database: LazyDatabase | None = None,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._models = models
        self._outcomes: Counter[str] = Counter()
        self._cache = ExactCache(
            MemoryReplies(settings.max_bytes), ttl_seconds=settings.ttl_seconds, store=_store(settings, database)
        )
        self._semantic: SemanticTier | None = None
        if settings.semantic != "off":
            from glm_crush.serving.response_cache.semantic import semantic_tier

            self._semantic = semantic_tier(models, settings, database, chance)

    def routes(self) -> Sequence[ApiRoute]:
        """What the operator asks."""
        path = "/admin/v1/cache"
        return [
            (Endpoint("GET", path, "What the response cache holds and how often it helped."), self._describe),
            (Endpoint("DELETE", path, "Forget every kept answer, on all servers that share the cache."), self._clear),
        ]

    def inner_middleware(self) -> Sequence[Middleware]:
        """Answers from the cache, behind admission."""
        return [
            Middleware(
                ResponseCaching,
                cache=self._cache,
                models=self._models,
                outcomes=self._outcomes,
                semantic=self._semantic,
            )
        ]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Writes what is to be written at the end."""
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self._semantic is not None:
                await self._semantic.close()
            await self._cache.close()

    async def _describe(self, _: Request) -> Response:
        memory = self._cache.memory
        facts = {"entries": len(memory), "bytes": memory.num_bytes, "store_failures": self._cache.num_store_failures}
        outcomes = {name: self._outcomes[name] for name in ("hit", "joined", "semantic", "miss", "bypass")}
        semantic = None if self._semantic is None else self._semantic.describe()
        described = {"object": "cache", **facts, "outcomes": outcomes, "semantic": semantic}
        return json_response({**described, "epoch": await self._cache.epoch()})

    async def _clear(self, _: Request) -> Response:
        epoch = await self._cache.advance_epoch()
        if self._semantic is not None:
            await self._semantic.clear()
        return json_response({"object": "cache", "epoch": epoch})


def _store(settings: CacheSettings, database: LazyDatabase | None) -> ReplyStore | None:
    if settings.redis_url is None:
        return LazySqlReplies(database) if settings.persist and database is not None else None
    try:
        from glm_crush.cache.redis import RedisReplies
    except ImportError as error:
        raise ConfigError(
            "cache.redis_url is set and redis is not installed; pip install 'glm-crush[redis]'"
        ) from error
    try:
        return RedisReplies(settings.redis_url)
    except ValueError as error:
        raise ConfigError(f"cache.redis_url is {settings.redis_url!r}: {error}") from error
