"""A stored reply and where replies are kept.

Above: the caches. Below: nothing. A reply is bytes with a type: the cache knows no protocol.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Protocol

from glm_crush.errors import StorageError

__all__ = ["CachedReply", "ReplyStore"]

_HEAD = struct.Struct("<4sdI")
_MAGIC = b"GCR1"


@dataclass(frozen=True, slots=True)
class CachedReply:
    """One whole reply.

    Attributes:
        content_type: of `body`. created_at, expires_at: seconds since 1970.
    """

    content_type: str
    body: bytes
    created_at: float
    expires_at: float

    @property
    def num_bytes(self) -> int:
        """What it costs to keep, about."""
        return len(self.body) + 200

    def pack(self) -> bytes:
        """For stores that keep bytes."""
        head = json.dumps([self.content_type, self.expires_at]).encode()
        return _HEAD.pack(_MAGIC, self.created_at, len(head)) + head + self.body

    @classmethod
    def unpack(cls, data: bytes) -> CachedReply:
        """What `pack` made.

        Raises:
            StorageError: it is something else, or cut off.
        """
        try:
            magic, created_at, length = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                raise ValueError("foreign data")
            content_type, expires_at = json.loads(data[_HEAD.size : _HEAD.size + length])
            return cls(str(content_type), bytes(data[_HEAD.size + length :]), created_at, float(expires_at))
        except (struct.error, ValueError, TypeError) as error:
            raise StorageError(f"a cached reply cannot be read: {error}; clear the cache") from error


class ReplyStore(Protocol):
    """Keeps replies under keys until they expire or must make room; shared between servers if it is remote."""

    async def get(self, key: str) -> CachedReply | None:
        """The reply of a key; None if there is none any more. Raises StorageError."""
        ...

    async def put(self, key: str, reply: CachedReply) -> None:
        """Keep a reply; an older one of the key is replaced. Raises StorageError."""
        ...

    async def epoch(self) -> int:
        """A number that goes up whenever everything kept so far is to be forgotten. Raises StorageError."""
        ...

    async def advance_epoch(self) -> int:
        """Forget everything, on every server that shares this store; returns the new epoch. Raises StorageError."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
