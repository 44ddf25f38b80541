"""The door to the native core: one call is one engine step, with the GIL released.

Above: `engine.runner`. Below: the compiled module `_native`. Shapes, dtypes and ranges are checked here and at
the binding; what does not fit raises `KernelError` naming the array, the value and the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glm_crush.errors import KernelError
from glm_crush.kernels import _native
from glm_crush.kernels.program import AdapterPart, ForwardBatch, Program
from glm_crush.kernels.sampling import SampleBatch, SampleResult

__all__ = ["BLOCK_SIZE", "Executor", "PackedWeights", "sample"]

BLOCK_SIZE = 16
"""Tokens per cache block; fixed by the native cache layout."""


class PackedWeights(Protocol):
    """Resolves the names in a program; `weights.packed_file.PackedFile` is one."""

    def tensor(self, name: str) -> Any:
        """A packed linear weight with `format, rows, cols, experts, data`."""

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A float32 vector."""


class Executor:
    """Runs a program natively over a paged key/value cache.

    Attributes:
        kernels: name of the instruction set in use. num_threads: threads of its own pool, the caller included.
        cache_bytes: memory reserved for keys and values. scratch_bytes: memory of activation buffers.
    """

    def __init__(
        self,
        program: Program,
        packed: PackedWeights,
        *,
        num_threads: int,
        num_blocks: int,
        max_tokens: int = 512,
        block_size: int = BLOCK_SIZE,
        kv_dtype: str = "bf16",
        kernels: str | None = None,
    ) -> None:
        """Args:
            num_blocks: cache blocks of 16 tokens. max_tokens: longest batch a step may bring.
            kv_dtype: "bf16", "int8" or "f32". kernels: force an instruction set; None takes the best this CPU has.

        Raises:
            KernelError: a weight does not fit the program, an option is out of range, or there are too few threads.
        """
        if block_size != BLOCK_SIZE:
            raise KernelError(f"block_size is {block_size}; the native cache has blocks of {BLOCK_SIZE} tokens")
        for name, value in (("num_threads", num_threads), ("num_blocks", num_blocks), ("max_tokens", max_tokens)):
            if value < 1:
                raise KernelError(f"{name} is {value}; it must be at least 1")
        try:
            self._executor = _native.Executor(
                program,
                packed,
                num_threads=num_threads,
                num_blocks=num_blocks,
                max_tokens=max_tokens,
                kv_dtype=kv_dtype,
                kernels=kernels,
            )
        except (ValueError, RuntimeError) as error:
            raise KernelError(str(error)) from error
        self._vocab_size = program.vocab_size
        self._hidden_size = program.hidden_size
        self._output_size = program.output_size
        self._logits = np.empty((1, program.output_size), np.float32)

    @property
    def kernels(self) -> str:
        return str(self._executor.kernels)

    @property
    def num_threads(self) -> int:
        return int(self._executor.num_threads)

    @property
    def cache_bytes(self) -> int:
        return int(self._executor.cache_bytes)

    @property
    def scratch_bytes(self) -> int:
        return int(self._executor.scratch_bytes)

    def forward(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """Run a step and return float32 logits `[len(batch.logit_rows), vocab_size]`, a fresh array.

        A program that ends in `Output` returns hidden states `[len(batch.logit_rows), width]`.

        Raises:
            KernelError: the batch does not fit the cache, the vocabulary or the step size.
        """
        logits = np.empty((len(batch.logit_rows), self._output_size), np.float32)
        self._step(batch, logits, None, None)
        return logits

    def forward_sample(self, batch: ForwardBatch, sample_batch: SampleBatch) -> SampleResult:
        """Run a step and draw one token per logit row; logits stay inside.

        Raises:
            KernelError: as `forward`, or the sampling rows do not match `logit_rows`.
        """
        rows = len(batch.logit_rows)
        if rows > len(self._logits):
            self._logits = np.empty((rows, self._vocab_size), np.float32)
        result = _empty_result(rows, sample_batch)
        self._step(batch, self._logits[:rows], sample_batch, result)
        return result

    def decode(self, batch: ForwardBatch, sample_batch: SampleBatch, num_steps: int) -> npt.NDArray[np.int32]:
        """Draw `num_steps` tokens per sequence, each computed from the one before, in one call.

        Every sequence of the batch brings one token and one logit row; its block table reaches over all steps. No
        penalties and no logprobs.

        Returns: int32 `[num_steps, num_seqs]`; -1 from where a sequence could draw nothing.

        Raises:
            KernelError: as `forward_sample`.
        """
        rows = len(batch.context_lens)
        if rows > len(self._logits):
            self._logits = np.empty((rows, self._vocab_size), np.float32)
        drawn = np.empty((num_steps, rows), np.int32)
        try:
            self._executor.decode(batch, self._logits[:rows], sample_batch, drawn)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error
        return drawn

    def read_hidden(self, num_tokens: int) -> npt.NDArray[np.float32]:
        """The last step's residual stream before the final norm, float32 `[num_tokens, hidden_size]`.

        Raises:
            KernelError: the program does not keep it, or a step has fewer tokens.
        """
        hidden = np.empty((num_tokens, self._hidden_size), np.float32)
        try:
            self._executor.read_hidden(hidden)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error
        return hidden

    def write_hidden(self, hidden: npt.NDArray[np.float32]) -> None:
        """Fill the program's input of hidden states for the next step: float32 `[num_tokens, hidden_size]`.

        Raises:
            KernelError: the program has no such input, or the array does not fit.
        """
        try:
            self._executor.write_hidden(hidden)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error

    def load_adapter(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Put a LoRA adapter into a slot, in the place of what was there; the matrices are copied.

        Raises:
            KernelError: a part does not fit its operation.
        """
        try:
            self._executor.load_adapter(slot, [(part.op, part.a, part.b) for part in parts])
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error

    def unload_adapter(self, slot: int) -> None:
        """Empty a slot.

        Raises:
            KernelError: it is empty.
        """
        try:
            self._executor.unload_adapter(slot)
        except ValueError as error:
            raise KernelError(str(error)) from error

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copy whole blocks of the cache, in every layer and in order: `sources[i]` to `targets[i]`.

        Raises:
            KernelError: a block does not exist.
        """
        try:
            self._executor.copy_blocks(sources, targets)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error

    @property
    def block_bytes(self) -> int:
        """What `read_blocks` takes for one block."""
        return int(self._executor.block_bytes)

    @property
    def numerics(self) -> str:
        """What decides the bits of keys and values beside program, weights and type of the cache: code and variant."""
        code = hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()
        return f"{self.kernels} of {code}"

    def read_blocks(self, blocks: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]) -> None:
        """Write whole blocks of the cache, every layer of them, to `out`: `[len(blocks), block_bytes]`.

        Another thread may call it beside a step that does not write these blocks.

        Raises:
            KernelError: a block does not exist, or `out` has another shape.
        """
        try:
            self._executor.read_blocks(blocks, out)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error

    def write_blocks(self, blocks: npt.NDArray[np.int32], data: npt.NDArray[np.uint8]) -> None:
        """Fill whole blocks of the cache with what `read_blocks` gave of others: `[len(blocks), block_bytes]`.

        Another thread may call it beside a step that does not use these blocks.

        Raises:
            KernelError: a block does not exist, or `data` has another shape.
        """
        try:
            self._executor.write_blocks(blocks, data)
        except (ValueError, TypeError, RuntimeError) as error:
            raise KernelError(str(error)) from error

    def _step(
        self,
        batch: ForwardBatch,
        logits: npt.NDArray[np.float32],
        sample_batch: SampleBatch | None,
        result: SampleResult | None,
    ) -> None:
        try:
            self._executor.forward(
                batch,
                logits,
                sample_batch,
                None if result is None else result.token_ids,
                None if result is None else result.logprobs,
                None if result is None else result.top_ids,
                None if result is None else result.top_logprobs,
            )
        except (ValueError, TypeError, RuntimeError) as error:  # the binding's casts raise RuntimeError
            raise KernelError(str(error)) from error


def sample(logits: npt.NDArray[np.float32], batch: SampleBatch) -> SampleResult:
    """Draw one token per row of given logits, as `Executor.forward_sample` does with its own.

    Args:
        logits: float32 `[R, vocab]`, not modified.
        batch: how to draw, `R` rows.

    Raises:
        KernelError: an array of the batch does not fit `logits`.
    """
    result = _empty_result(len(logits), batch)
    try:
        _native.sample(logits, batch, result.token_ids, result.logprobs, result.top_ids, result.top_logprobs)
    except (ValueError, TypeError, RuntimeError) as error:  # the binding's casts raise RuntimeError
        raise KernelError(str(error)) from error
    return result


def _empty_result(num_rows: int, batch: SampleBatch) -> SampleResult:
    width = max(0, int(batch.num_logprobs.max(initial=0)))
    return SampleResult(
        token_ids=np.empty(num_rows, np.int32),
        logprobs=np.empty(num_rows, np.float32),
        top_ids=np.full((num_rows, width), -1, np.int32),
        top_logprobs=np.full((num_rows, width), -np.inf, np.float32),
    )
