"""Names of models that are split over several files, `<stem>-00001-of-00003.gguf`.

Above it: the sources and the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["shard_sets", "shard_siblings"]

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf|\.safetensors)", re.ASCII)


def shard_siblings(name: str) -> list[str]:
    """All files of the sharded set that `name` belongs to, in order; just itself when it is not a shard."""
    match = _SHARD.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{index:05d}-of-{count:05d}{match['suffix']}" for index in range(1, count + 1)]


def shard_sets(names: Iterable[str]) -> list[list[str]]:
    """The names grouped into models, each with all its shards in order."""
    sets: dict[str, list[str]] = {}
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        sets.setdefault(match["stem"] if match else name, []).append(name)
    return list(sets.values())
