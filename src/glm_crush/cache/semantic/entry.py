"""A question that was answered, as it is compared with others; and where such questions are kept.

Above: the index and the stores. Below: `evidence`. No text is kept: vectors and hashes say enough.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.cache.semantic.evidence import Evidence
from glm_crush.errors import StorageError

__all__ = ["Answer", "SemanticEntry", "SemanticStore", "numbers_in"]

Float32 = npt.NDArray[np.float32]

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_HEAD = struct.Struct("<4sI")
_MAGIC = b"GCS1"
_OVERHEAD_BYTES = 800  # of the objects around the vectors, about


def numbers_in(text: str) -> list[str]:
    """The numbers of a text in their order, in any script's digits: similarity does not tell them apart."""
    return _NUMBER.findall(unicodedata.normalize("NFKC", text))


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer as it is compared with others.

    Attributes:
        digest: of its words. numbers: a digest of its numbers. vector: of length 1, `[dimensions]`; None if it is
            longer than the embedding model reads.
    """

    digest: str
    numbers: str
    vector: Float32 | None

    @classmethod
    def of(cls, text: str, vector: Float32 | None) -> Answer:
        """From its text."""
        words = " ".join(unicodedata.normalize("NFKC", text).split())
        return cls(_digest(words), _digest(" ".join(numbers_in(text))), vector)

    def is_same(self, other: Answer, least_similarity: float) -> bool:
        """Whether the two say the same: equal words, or equal numbers and vectors that are close enough."""
        if self.digest == other.digest:
            return True
        if self.numbers != other.numbers or self.vector is None or other.vector is None or least_similarity >= 1:
            return False
        return float(self.vector @ other.vector) >= least_similarity


@dataclass(eq=False, slots=True)
class SemanticEntry:
    """One question.

    Attributes:
        entry_id: of its scope and words. scope: everything but the words; only questions of one scope are compared.
        vector: of the question, of length 1. reply_key: of the kept reply. answer: what the reply says.
        expires_at: seconds since 1970. evidence: what was seen of it, not part of `pack`.
    """

    entry_id: str
    scope: str
    tenant: str
    vector: Float32
    reply_key: str
    answer: Answer
    expires_at: float
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def num_bytes(self) -> int:
        """What it costs to keep, about."""
        return self.vector.nbytes + (0 if self.answer.vector is None else self.answer.vector.nbytes) + _OVERHEAD_BYTES

    def pack(self) -> bytes:
        """For stores that keep bytes."""
        answer = self.answer
        fields = [self.entry_id, self.scope, self.tenant, self.reply_key, answer.digest, answer.numbers]
        head = json.dumps([*fields, self.expires_at, len(self.vector)]).encode()
        vectors = self.vector.tobytes() + (b"" if answer.vector is None else answer.vector.tobytes())
        return _HEAD.pack(_MAGIC, len(head)) + head + vectors

    @classmethod
    def unpack(cls, data: bytes) -> SemanticEntry:
        """What `pack` made, without evidence.

        Raises:
            StorageError: it is something else, or cut off.
        """
        try:
            magic, length = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                raise ValueError("foreign data")
            start = _HEAD.size + length
            head = json.loads(data[_HEAD.size : start])
            entry_id, scope, tenant, reply_key, digest, numbers, expires_at, width = head
            vectors = np.frombuffer(data, np.float32, offset=start)
            if len(vectors) not in (width, 2 * width):
                raise ValueError(f"{len(vectors)} numbers instead of {width} or {2 * width}")
            answer = Answer(digest, numbers, vectors[width:] if len(vectors) > width else None)
            return cls(entry_id, scope, tenant, vectors[:width], reply_key, answer, float(expires_at))
        except (struct.error, ValueError, TypeError) as error:
            raise StorageError(f"a kept question cannot be read: {error}; clear the cache") from error


class SemanticStore(Protocol):
    """Keeps questions and what was seen of them beyond this process; shared between servers if it is remote."""

    async def load(self, scope: str) -> Sequence[SemanticEntry]:
        """The questions of a scope that have not expired, with their evidence. Raises StorageError."""
        ...

    async def put(self, entry: SemanticEntry, *, max_entries: int) -> None:
        """Keep a question, or its new answer; the oldest of its tenant beyond `max_entries` go. Raises StorageError."""
        ...

    async def add_evidence(self, entry: SemanticEntry, band: int, *, right: bool) -> None:
        """One comparison more, whoever else adds some. Raises StorageError."""
        ...

    async def clear(self) -> None:
        """Forget everything. Raises StorageError."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
