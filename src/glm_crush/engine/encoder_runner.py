"""Runs whole texts through an encoder: many in one native call, back to back, without padding.

Above: `embedder`, `encoder_queue`. Below: the executor. A text's result does not depend on the texts it shares a call
with, to the last bit, so nothing here needs to sort or to pad.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.kernels.program import ForwardBatch
from glm_crush.models.heads import Readout
from glm_crush.tokenizer.encoded_text import EncodedText

__all__ = ["EncoderExecutor", "EncoderRunner", "take_batch", "whole_text_batch"]

Float32 = npt.NDArray[np.float32]


class EncoderExecutor(Protocol):
    """What runs an encoder's program."""

    def forward(self, batch: ForwardBatch) -> Float32:
        """Float32 `[num_logit_rows, width]`."""


class EncoderRunner:
    """Owns the executor of one encoder; safe to call from several threads, which take turns call by call.

    Attributes:
        readout: what a result is. width: numbers per result. max_batch_tokens: tokens one native call takes.
        max_batch_texts: texts one native call takes.
    """

    def __init__(
        self,
        executor: EncoderExecutor,
        readout: Readout,
        *,
        width: int,
        max_batch_tokens: int,
        max_batch_texts: int,
        block_size: int = 16,
    ) -> None:
        self.readout = readout
        self.width = width
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_texts = max_batch_texts
        self._executor = executor
        self._block_size = block_size
        self._lock = threading.Lock()

    def run(self, texts: Sequence[EncodedText]) -> Float32:
        """One native call, float32 `[len(texts), width]`; the texts fit into it.

        The result has a row per token where the readout has.
        """
        batch = whole_text_batch(texts, self.readout.rows, self._block_size)
        with self._lock:
            return self._executor.forward(batch)

    def run_all(self, texts: Sequence[EncodedText]) -> Float32:
        """As many native calls as it takes; others may run between two of them."""
        parts, done = [np.empty((0, self.width), np.float32)], 0
        while done < len(texts):
            count = take_batch(texts[done:], self.max_batch_tokens, self.max_batch_texts)
            parts.append(self.run(texts[done : done + count]))
            done += count
        return np.concatenate(parts)


def take_batch(texts: Sequence[EncodedText], max_tokens: int, max_texts: int) -> int:
    """How many of the first texts fit into one call; at least one."""
    total = 0
    for count, text in enumerate(texts[:max_texts]):
        total += len(text.token_ids)
        if total > max_tokens:
            return max(1, count)
    return min(len(texts), max_texts)


def whole_text_batch(texts: Sequence[EncodedText], rows: str, block_size: int) -> ForwardBatch:
    """A step in which every text is computed whole; `rows` as in `Readout`."""
    lengths = [len(text.token_ids) for text in texts]
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    num_blocks = [-(-length // block_size) for length in lengths]
    tables = np.full((len(texts), max(num_blocks)), -1, np.int32)
    first = 0
    for table, count in zip(tables, num_blocks, strict=True):
        table[:count] = np.arange(first, first + count)
        first += count
    types = None
    if any(text.token_types is not None for text in texts):
        types = np.concatenate([np.asarray(text.token_types or [0] * len(text.token_ids), np.int32) for text in texts])
    wanted = ends[:-1]
    if rows == "last":
        wanted = ends[1:] - 1
    elif rows == "every":
        wanted = np.arange(ends[-1], dtype=np.int32)
    return ForwardBatch(
        token_ids=np.concatenate([np.asarray(text.token_ids, np.int32) for text in texts]),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_start=ends,
        context_lens=np.asarray(lengths, np.int32),
        block_tables=tables,
        logit_rows=wanted,
        token_types=types,
    )
