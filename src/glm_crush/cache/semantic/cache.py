"""The semantic cache: a question asked in other words gets the kept answer, once that has proved right often enough.

Above: `serving.response_cache`. Below: the index, the evidence, a store. A question is compared with the nearest one
asked under the same circumstances. Either its answer is given, or a new one is computed as if there were no cache; the
two answers are then compared, and that is what is learnt from (`evidence`).
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from glm_crush.cache.exact import canonical_key
from glm_crush.cache.semantic.entry import Answer, Float32, SemanticEntry, SemanticStore, numbers_in
from glm_crush.cache.semantic.evidence import Experience, band_of
from glm_crush.cache.semantic.index import SemanticIndex
from glm_crush.errors import StorageError

__all__ = ["Lookup", "SemanticBounds", "SemanticCache", "TextSpace"]

# Of the questions whose answer is known well enough, so many are computed all the same: what was learnt may grow old.
_AUDITED_SHARE = 0.05
_FIT_EVERY = 10  # comparisons; later ones change less, so it is done more rarely the more answers there are
_MOST_SCOPES = 10_000  # whose time of loading is remembered

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextSpace:
    """A text as a vector of length 1; only vectors of one `space` can be compared."""

    space: str
    vector: Float32


Embed = Callable[[str], Awaitable[TextSpace | None]]


@dataclass(frozen=True, kw_only=True)
class SemanticBounds:
    """How far the cache may go.

    Attributes:
        error_bound: largest probability that an answer given is wrong. answer_similarity: two answers at least so
            similar say the same. max_entries: questions of one tenant. ttl_seconds: how long they are kept.
        refresh_seconds: how long what other servers learn may stay unknown here.
    """

    error_bound: float
    answer_similarity: float
    max_entries: int
    ttl_seconds: float
    refresh_seconds: float = 10.0


@dataclass(frozen=True, eq=False)
class Lookup:
    """What is known of a question before it is answered.

    Attributes:
        entry_id, scope, tenant, vector: of the question. nearest: the entry most like it, with `similarity`.
        risk: probability that the answer of `nearest` is wrong. gives_answer: it is to be given.
    """

    entry_id: str
    scope: str
    tenant: str
    vector: Float32
    nearest: SemanticEntry | None = None
    similarity: float = 0.0
    risk: float = 1.0
    gives_answer: bool = False


class SemanticCache:
    """Decides and learns; the replies themselves are the exact cache's.

    Args:
        embed: vectors of texts; None for a text that the model cannot read whole.
        open_store: called once, when the first question comes; None = memory alone.
        chance: a number from 0 to 1 each time it is called. clock: seconds since 1970.
    """

    def __init__(
        self,
        index: SemanticIndex,
        embed: Embed,
        bounds: SemanticBounds,
        *,
        open_store: Callable[[], Awaitable[SemanticStore]] | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._embed = embed
        self._bounds = bounds
        self._open_store = open_store
        self._chance = chance
        self._clock = clock
        self._store: SemanticStore | None = None
        self._loaded: OrderedDict[str, float] = OrderedDict()
        self._experience: dict[str, Experience] = {}
        self._num_unfitted: Counter[str] = Counter()
        self.num_store_failures = 0

    @property
    def index(self) -> SemanticIndex:
        return self._index

    async def look_up(self, tenant: str, circumstances: str, question: str) -> Lookup | None:
        """What is known of a question; None if it is too long to be compared.

        Args:
            tenant: whose questions it is compared with.
            circumstances: a key of everything that decides on the answer beside the question.
            question: its words.
        """
        embedded = await self._embed(question)
        if embedded is None:
            return None
        # Numbers are compared as they are: vectors of questions that differ in one are as near as those of paraphrases.
        scope = canonical_key(tenant=tenant, of=circumstances, numbers=numbers_in(question), space=embedded.space)
        entry_id = canonical_key(scope=scope, question=question)
        await self._load(scope)
        found = self._index.nearest(scope, embedded.vector)
        if found is None:
            return Lookup(entry_id, scope, tenant, embedded.vector)
        nearest, similarity = found
        self._index.touch(nearest)
        risk = self._risk(nearest, similarity)
        gives = nearest.entry_id == entry_id or (risk <= self._bounds.error_bound and self._chance() >= _AUDITED_SHARE)
        return Lookup(entry_id, scope, tenant, embedded.vector, nearest, similarity, risk, gives)

    async def learn(self, lookup: Lookup, reply_key: str, text: str) -> None:
        """Compare the answer that was computed with the one that was not given, and keep it if it is another one."""
        embedded = await self._embed(text)
        answer = Answer.of(text, None if embedded is None else embedded.vector)
        nearest, expires_at = lookup.nearest, self._clock() + self._bounds.ttl_seconds
        is_same = nearest is not None and nearest.answer.is_same(answer, self._bounds.answer_similarity)
        if nearest is not None and nearest.entry_id != lookup.entry_id:
            await self._add_evidence(nearest, lookup.similarity, right=is_same)
        if nearest is not None and is_same:
            # The newest reply that says the same stays in the exact cache longest.
            self._index.renew(nearest, reply_key, answer, expires_at)
            await self._put(nearest)
            return
        entry = SemanticEntry(
            lookup.entry_id, lookup.scope, lookup.tenant, lookup.vector, reply_key, answer, expires_at
        )
        if nearest is not None and nearest.entry_id == lookup.entry_id:
            entry.evidence = nearest.evidence  # the same question has another answer now
        await self._put(entry)
        self._index.keep(entry)

    async def clear(self) -> None:
        """Forget everything."""
        self._index.clear()
        self._experience.clear()
        self._loaded.clear()
        if self._store is not None:
            await self._store.clear()

    async def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()

    def _risk(self, entry: SemanticEntry, similarity: float) -> float:
        band = band_of(similarity)
        if band is None:
            return 1.0
        return self._experience_of(entry.tenant).risk(entry.evidence, band)

    def _experience_of(self, tenant: str) -> Experience:
        return self._experience.setdefault(tenant, Experience())

    async def _add_evidence(self, entry: SemanticEntry, similarity: float, *, right: bool) -> None:
        band = band_of(similarity)
        if band is None:
            return
        try:
            if self._store is not None:
                await self._store.add_evidence(entry, band, right=right)
        except StorageError as error:
            self._note_failure(error)
        entry.evidence.add(band, right=right)
        self._num_unfitted[entry.tenant] += 1
        entries = list(self._index.of_tenant(entry.tenant))
        if self._num_unfitted[entry.tenant] >= max(_FIT_EVERY, len(entries) // 10):
            self._num_unfitted[entry.tenant] = 0
            self._experience_of(entry.tenant).fit(entry.evidence for entry in entries)

    async def _put(self, entry: SemanticEntry) -> None:
        try:
            if self._store is not None:
                await self._store.put(entry, max_entries=self._bounds.max_entries)
        except StorageError as error:
            self._note_failure(error)

    async def _load(self, scope: str) -> None:
        """Take over what the store has of a scope, now and then."""
        now = self._clock()
        if self._open_store is None or now - self._loaded.get(scope, float("-inf")) < self._bounds.refresh_seconds:
            return
        self._loaded[scope] = now
        self._loaded.move_to_end(scope)
        if len(self._loaded) > _MOST_SCOPES:
            self._loaded.popitem(last=False)
        try:
            if self._store is None:
                self._store = await self._open_store()
            entries = await self._store.load(scope)
        except StorageError as error:
            self._note_failure(error)
            return
        self._index.replace_scope(scope, entries)
        for tenant in {entry.tenant for entry in entries}:
            self._num_unfitted[tenant] += _FIT_EVERY

    def _note_failure(self, error: StorageError) -> None:
        self.num_store_failures += 1
        _log.warning("semantic cache: %s", error)
