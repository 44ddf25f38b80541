"""Questions in this process: found by their vectors, forgotten by tenant when there are too many.

Above: `semantic.cache`. Below: `entry`. Exact search: a scope rarely has more than some hundred questions.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from glm_crush.cache.semantic.entry import Answer, Float32, SemanticEntry

__all__ = ["SemanticIndex"]


class SemanticIndex:
    """Entries in memory.

    Args:
        max_entries: of one tenant; the least recently used goes. max_bytes: of all; the largest tenant gives way.
        clock: seconds since 1970.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._tenants: dict[str, OrderedDict[str, SemanticEntry]] = {}
        self._scopes: defaultdict[str, dict[str, SemanticEntry]] = defaultdict(dict)
        self._matrices: dict[str, tuple[list[SemanticEntry], Float32]] = {}
        self._num_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    @property
    def num_bytes(self) -> int:
        """Of what is kept."""
        return self._num_bytes

    def of_tenant(self, tenant: str) -> Iterator[SemanticEntry]:
        """All its entries, the least recently used first."""
        return iter(list(self._tenants.get(tenant, {}).values()))

    def get(self, tenant: str, entry_id: str) -> SemanticEntry | None:
        """An entry, if it is still kept."""
        entries = self._tenants.get(tenant)
        return None if entries is None else entries.get(entry_id)

    def nearest(self, scope: str, vector: Float32) -> tuple[SemanticEntry, float] | None:
        """The entry of a scope whose vector has the largest cosine with `vector`, of length 1, and that cosine."""
        self._drop_expired(scope)
        if not self._scopes.get(scope):
            return None
        if scope not in self._matrices:
            entries = list(self._scopes[scope].values())
            self._matrices[scope] = (entries, np.stack([entry.vector for entry in entries]))
        entries, matrix = self._matrices[scope]
        cosines = matrix @ vector
        best = int(cosines.argmax())
        return entries[best], float(min(cosines[best], 1.0))

    def touch(self, entry: SemanticEntry) -> None:
        """It was of use just now."""
        if self.get(entry.tenant, entry.entry_id) is not None:
            self._tenants[entry.tenant].move_to_end(entry.entry_id)

    def keep(self, entry: SemanticEntry) -> None:
        """Keep an entry in place of an older one of its id; what is too much goes."""
        old = self.get(entry.tenant, entry.entry_id)
        if old is not None:
            self.drop(old)
        if entry.num_bytes > self._max_bytes:
            return
        tenant = self._tenants.setdefault(entry.tenant, OrderedDict())
        tenant[entry.entry_id] = entry
        self._scopes[entry.scope][entry.entry_id] = entry
        self._matrices.pop(entry.scope, None)
        self._num_bytes += entry.num_bytes
        if len(tenant) > self._max_entries:
            self.drop(next(iter(tenant.values())))
        while self._num_bytes > self._max_bytes:
            largest = max(self._tenants.values(), key=len)
            self.drop(next(iter(largest.values())))

    def replace_scope(self, scope: str, entries: Iterable[SemanticEntry]) -> None:
        """Have exactly these of a scope."""
        wanted = {entry.entry_id: entry for entry in entries}
        for old in list(self._scopes.get(scope, {}).values()):
            if old.entry_id not in wanted:
                self.drop(old)
        for entry in wanted.values():
            known = self.get(entry.tenant, entry.entry_id)
            if known is None:
                self.keep(entry)
            else:
                known.evidence = entry.evidence
                self.renew(known, entry.reply_key, entry.answer, entry.expires_at)

    def renew(self, entry: SemanticEntry, reply_key: str, answer: Answer, expires_at: float) -> None:
        """Give an entry another reply; it stays where it is in the order of use."""
        before = entry.num_bytes
        entry.reply_key, entry.answer, entry.expires_at = reply_key, answer, expires_at
        if self.get(entry.tenant, entry.entry_id) is entry:
            self._num_bytes += entry.num_bytes - before

    def drop(self, entry: SemanticEntry) -> None:
        """Forget an entry that is kept."""
        tenant, scope = self._tenants[entry.tenant], self._scopes[entry.scope]
        del tenant[entry.entry_id], scope[entry.entry_id]
        if not tenant:
            del self._tenants[entry.tenant]
        if not scope:
            del self._scopes[entry.scope]
        self._matrices.pop(entry.scope, None)
        self._num_bytes -= entry.num_bytes

    def clear(self) -> None:
        """Forget all entries."""
        self._tenants.clear()
        self._scopes.clear()
        self._matrices.clear()
        self._num_bytes = 0

    def _drop_expired(self, scope: str) -> None:
        now = self._clock()
        for entry in [entry for entry in self._scopes.get(scope, {}).values() if entry.expires_at <= now]:
            self.drop(entry)
