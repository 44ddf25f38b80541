"""The semantic cache as the server has it: questions and answers of requests, vectors of the served embedding model.

Above: `middleware`. Below: `glm_crush.cache.semantic`, which decides and learns. What it does for itself is charged to
nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from glm_crush.cache.semantic.cache import Lookup, SemanticBounds, SemanticCache, TextSpace
from glm_crush.cache.semantic.entry import SemanticStore
from glm_crush.cache.semantic.index import SemanticIndex
from glm_crush.cache_settings import CacheSettings
from glm_crush.engine.reranker import unit_vectors
from glm_crush.errors import ConfigError, GlmError
from glm_crush.serving.gateway.admission import acting
from glm_crush.serving.response_cache.policy import CacheWish, ReplyIdentity
from glm_crush.serving.response_cache.question import answer_in, question_in
from glm_crush.serving.served_encoder import ServedEncoder, ServedEncoders
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase

__all__ = ["SemanticTier", "TextVectors", "semantic_tier"]

_log = logging.getLogger(__name__)
_PROBE = "Which vectors can be compared with this one?"


class TextVectors:
    """Vectors of texts by the first embedding model served."""

    def __init__(self, encoders: ServedEncoders) -> None:
        self._encoders = encoders
        self._probed: tuple[ServedEncoder, str] | None = None
        self.num_failures = 0

    async def __call__(self, text: str) -> TextSpace | None:
        """Its vector; None if it is too long for the model, or the model cannot be asked now."""
        try:
            with acting(None):
                async with self._encoders.use(None, "embedding model") as encoder:
                    space = await self._space_of(encoder)
                    vectors = (await encoder.embed([text])).vectors
        except GlmError as error:
            self.num_failures += 1
            _log.debug("semantic cache: a text has no vector: %s", error)
            return None
        return TextSpace(space, unit_vectors(vectors)[0])

    async def _space_of(self, encoder: ServedEncoder) -> str:
        """A name for its vectors: that of a model is not enough, another one may be served under it later."""
        if self._probed is None or self._probed[0] is not encoder:
            vectors = (await encoder.embed([_PROBE])).vectors
            self._probed = (encoder, hashlib.sha256(vectors.tobytes()).hexdigest()[:32])
        return self._probed[1]


class SemanticTier:
    """What the middleware asks after the exact cache.

    Args:
        models: their guard sees a question before its answer may come from here.
        unasked: whether requests that do not ask for similar answers get them too.
    """

    def __init__(self, models: ServedModels, cache: SemanticCache, vectors: TextVectors, *, unasked: bool) -> None:
        self._models = models
        self._cache = cache
        self._vectors = vectors
        self._unasked = unasked
        self._lessons: set[asyncio.Task[None]] = set()

    async def look_up(self, identity: ReplyIdentity, body: Mapping[str, Any], wish: CacheWish) -> Lookup | None:
        """What is known of a request's question; None if similar ones do not count for it."""
        if not wish.read or not (self._unasked if wish.semantic is None else wish.semantic):
            return None
        question = question_in(identity.path, body)
        if question is None:
            return None
        guard = self._models.guard
        if guard is not None and not await guard.is_clean(question.words):
            return None  # an answer to other words would leave what is in these unseen
        return await self._cache.look_up(identity.tenant, identity.key(question.circumstances), question.words)

    def learn(self, lookup: Lookup, path: str, reply_key: str, content_type: str, body: bytes) -> None:
        """Learn from a whole reply, beside whatever else runs."""
        answer = answer_in(path, content_type, body)
        if answer is not None:
            self._begin(self._cache.learn(lookup, reply_key, answer))

    def describe(self) -> dict[str, int]:
        """For the operator."""
        index = self._cache.index
        failures = {"store_failures": self._cache.num_store_failures, "embedding_failures": self._vectors.num_failures}
        return {"entries": len(index), "bytes": index.num_bytes, **failures}

    async def clear(self) -> None:
        """Forget everything."""
        await self._cache.clear()

    async def close(self) -> None:
        """Finish learning, then let go of the store."""
        if self._lessons:
            await asyncio.wait(self._lessons)
        await self._cache.close()

    def _begin(self, lesson: Coroutine[Any, Any, None]) -> None:
        with acting(None):
            task = asyncio.create_task(lesson)
        self._lessons.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, lesson: asyncio.Task[None]) -> None:
        self._lessons.discard(lesson)
        if not lesson.cancelled() and (error := lesson.exception()) is not None:
            _log.error("semantic cache: an answer taught nothing", exc_info=error)


def semantic_tier(
    models: ServedModels, settings: CacheSettings, database: LazyDatabase | None, chance: Callable[[], float]
) -> SemanticTier:
    """The tier as the settings have it.

    Raises:
        ConfigError: nothing is served that makes vectors, or a bound is out of its range.
    """
    if not any(encoder.task == "embed" for encoder in models.encoders):
        raise ConfigError(
            f"cache.semantic is {settings.semantic!r} and no embedding model is served to compare questions with; "
            "start with --embedding-model minilm (or set encoders.embedding_model), or set cache.semantic to 'off'"
        )
    if settings.semantic_error_bound >= 0.5:
        raise ConfigError(f"cache.semantic_error_bound is {settings.semantic_error_bound:g}; give less than 0.5")
    if settings.semantic_answer_similarity > 1:
        raise ConfigError(
            f"cache.semantic_answer_similarity is {settings.semantic_answer_similarity:g}; give 1 at most"
        )
    vectors = TextVectors(models.encoders)
    cache = SemanticCache(
        SemanticIndex(max_entries=settings.semantic_max_entries, max_bytes=settings.semantic_max_bytes),
        vectors,
        SemanticBounds(
            error_bound=settings.semantic_error_bound,
            answer_similarity=settings.semantic_answer_similarity,
            max_entries=settings.semantic_max_entries,
            ttl_seconds=settings.semantic_ttl_seconds,
        ),
        open_store=_opener(settings, database),
        chance=chance,
    )
    return SemanticTier(models, cache, vectors, unasked=settings.semantic == "on")


def _opener(settings: CacheSettings, database: LazyDatabase | None) -> Callable[[], Awaitable[SemanticStore]] | None:
    """Where questions outlive this process: where replies do. Imported when the first question comes."""
    if settings.redis_url is not None:
        url = settings.redis_url

        async def open_redis() -> SemanticStore:
            from glm_crush.cache.semantic.redis import RedisEntries

            return RedisEntries(url)

        return open_redis
    if database is None or not settings.persist:
        return None

    async def open_sql() -> SemanticStore:
        opened = await database.open()
        from glm_crush.cache.semantic.sql import SqlEntries

        entries = SqlEntries(opened)
        await entries.open()
        return entries

    return open_sql
