"""Carry out a weight plan: checkpoint in, packed file out.

Weights are converted in slabs of rows and written as they come, so memory stays at a few slabs whatever the model's
size; slabs are converted by a few threads and written in order. Above: `models.loader`, the CLI. This module knows
neither families nor kernels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError
from glm_crush.weights.checkpoint import Checkpoint
from glm_crush.weights.formats import (
    Rows,
    choose_format,
    float_rows,
    interleave_rows,
    join_rows,
    pack_any,
    source_rows,
)
from glm_crush.weights.packed_file import PackedEntry, PackedHeader, linear_entry, vector_entry
from glm_crush.weights.packed_size import PANEL_ROWS, ROW_ALIGN
from glm_crush.weights.packed_writer import write_packed
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan
from glm_crush.weights.quantize import check_finite
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["Progress", "pack_checkpoint", "packed_entries"]

Progress = Callable[[int, int], None]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

_SLAB_VALUES: Final = 1 << 19  # 2 MiB of float32
_NUM_THREADS: Final = 4


def pack_checkpoint(
    checkpoint: Checkpoint,
    plan: Sequence[WeightPlan],
    weight_format: str,
    out_path: str | Path,
    progress: Progress | None = None,
    *,
    tokenizer_json: bytes | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write the packed file of a checkpoint; it appears whole or not at all.

    Args:
        checkpoint: where the weights come from.
        plan: what to pack, in file order.
        weight_format: "auto", "q4", "q8", "bf16" or "f32"; see `formats.choose_format`.
        out_path: the file to write.
        progress: called with bytes of packed weights done and in all.
        tokenizer_json: tokenizer to store instead of the checkpoint's (GGUF has none as a file).
        tokenizer_config: likewise.
        info: anything else worth keeping in the header.

    Raises:
        CheckpointError: a tensor is missing, has the wrong shape or holds a value that is not finite.
        UnsupportedModelError: a tensor's type or the weight format is not supported.
        PackedFileError: the disk is too small or cannot be written.
    """
    jobs = [_job(checkpoint, entry, weight_format) for entry in plan]
    header = PackedHeader(
        config=checkpoint.config,
        generation_config=checkpoint.generation_config,
        tokenizer_json=checkpoint.tokenizer_json if tokenizer_json is None else tokenizer_json,
        tokenizer_config=checkpoint.tokenizer_config if tokenizer_config is None else tokenizer_config,
        chat_template=checkpoint.chat_template,
        sentence_files=checkpoint.sentence_files,
        source_hash=checkpoint.source_hash(),
        weight_format=weight_format,
        info={"source": str(checkpoint.path), "source_format": checkpoint.format, **(info or {})},
    )
    total = sum(job.entry.nbytes for job in jobs)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="glm-pack") as pool:
        chunks = _in_order(pool, (slab for job in jobs for slab in job.slabs()))
        write_packed(Path(out_path), header, [job.entry for job in jobs], _reported(chunks, total, progress))


def packed_entries(checkpoint: Checkpoint, plan: Sequence[WeightPlan], weight_format: str) -> tuple[PackedEntry, ...]:
    """What `pack_checkpoint` would write, with the format and the exact size of every weight; nothing is converted.

    Raises:
        CheckpointError, UnsupportedModelError: as `pack_checkpoint`, for what the headers tell.
    """
    return tuple(_job(checkpoint, entry, weight_format).entry for entry in plan)


def _in_order(pool: ThreadPoolExecutor, slabs: Iterable[_Slab]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Results of the slabs in their order, with a bounded number under way."""
    waiting: deque[tuple[str, Future[npt.NDArray[Any]]]] = deque()
    try:
        for slab in slabs:
            waiting.append((slab.name, pool.submit(slab.convert)))
            if len(waiting) > 2 * _NUM_THREADS:
                name, future = waiting.popleft()
                yield name, future.result()
        while waiting:
            name, future = waiting.popleft()
            yield name, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _reported(
    chunks: Iterator[tuple[str, npt.NDArray[Any]]], total: int, progress: Progress | None
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    done = 0
    for name, array in chunks:
        done += array.nbytes
        if progress is not None:
            progress(done, total)  # before the yield: the writer does not come back after the last chunk
        yield name, array


@dataclass(frozen=True)
class _Slab:
    """A piece of one packed tensor that can be converted on its own."""

    name: str
    make: Callable[[], npt.NDArray[Any]]

    def convert(self) -> npt.NDArray[Any]:
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused, not warned about
                return self.make()
        except ValueError as error:  # the quantiser does not know what it quantises
            raise CheckpointError(f"packing {self.name!r}: {error}") from error


@dataclass(frozen=True)
class _LinearJob:
    """A linear weight: per expert the readers of its rows."""

    entry: PackedEntry
    experts: tuple[tuple[_Reader, ...], ...]
    gated: bool

    def slabs(self) -> Iterator[_Slab]:
        # Whole panels; of a gated weight each half contributes half of a slab.
        unit = PANEL_ROWS if self.gated else ROW_ALIGN
        step = max(1, _SLAB_VALUES // (unit * self.entry.cols)) * unit
        for readers in self.experts:
            half = len(readers) // 2
            rows = sum(reader.num_rows for reader in (readers[:half] if self.gated else readers))
            for start in range(0, rows, step):
                yield _Slab(self.entry.name, _bound(self._convert, readers, start, min(start + step, rows)))

    def _convert(self, readers: tuple[_Reader, ...], start: int, stop: int) -> UInt8:
        half = len(readers) // 2
        if self.gated:
            rows = interleave_rows(
                _read(readers[:half], self.entry.format, start, stop),
                _read(readers[half:], self.entry.format, start, stop),
            )
        else:
            rows = _read(readers, self.entry.format, start, stop)
        return pack_any(rows, self.entry.format)


@dataclass(frozen=True)
class _VectorJob:
    """A plain float32 array."""

    entry: PackedEntry
    plan: VectorPlan
    tensors: tuple[SourceTensor, ...]

    def slabs(self) -> Iterator[_Slab]:
        yield _Slab(self.entry.name, self._convert)

    def _convert(self) -> Float32:
        if not self.tensors:
            assert self.plan.default is not None
            return np.full(self.entry.shape, self.plan.default, np.float32)
        parts = [
            _Reader(tensor, source).whole().reshape(-1)
            for tensor, source in zip(self.tensors, self.plan.parts, strict=True)
        ]
        values = np.concatenate(parts)
        if values.size != self.entry.nbytes // 4:
            names = ", ".join(tensor.name for tensor in self.tensors)
            raise CheckpointError(f"{names}: {values.size} values where {self.plan.shape} is due")
        check_finite(values)
        return values + np.float32(self.plan.add)


@dataclass(frozen=True)
class _Reader:
    """Rows of one source of a plan."""

    tensor: SourceTensor
    source: Source

    @property
    def bounds(self) -> tuple[int, int]:
        return self.source.rows or (0, self.tensor.shape[0] if self.tensor.shape else 1)

    @property
    def num_rows(self) -> int:
        start, stop = self.bounds
        return self.tensor.shape[1] if self.source.transpose else stop - start

    @property
    def num_cols(self) -> int:
        start, stop = self.bounds
        return stop - start if self.source.transpose else self.tensor.shape[1]

    def whole(self) -> Float32:
        return self.tensor.rows(*self.bounds)

    def read(self, weight_format: str, start: int, stop: int) -> Rows:
        first, _ = self.bounds
        if self.source.transpose:  # only small ones are: the heads of MLA
            return float_rows(np.ascontiguousarray(self.whole().T[start:stop]), weight_format)
        return source_rows(self.tensor, weight_format, first + start, first + stop)


def _read(readers: tuple[_Reader, ...], weight_format: str, start: int, stop: int) -> Rows:
    """Rows `[start, stop)` of the readers' rows taken one after another."""
    parts: list[Rows] = []
    offset = 0
    for reader in readers:
        low, high = max(start - offset, 0), min(stop - offset, reader.num_rows)
        if low < high:
            parts.append(reader.read(weight_format, low, high))
        offset += reader.num_rows
    return join_rows(parts)


def _bound(
    convert: Callable[[tuple[_Reader, ...], int, int], UInt8], readers: tuple[_Reader, ...], start: int, stop: int
) -> Callable[[], UInt8]:
    return lambda: convert(readers, start, stop)


def _job(checkpoint: Checkpoint, plan: WeightPlan, weight_format: str) -> _LinearJob | _VectorJob:
    if isinstance(plan, VectorPlan):
        missing = [source.name for source in plan.parts if _name(checkpoint, source) is None]
        if missing and plan.default is not None:
            return _VectorJob(vector_entry(plan.name, plan.shape), plan, ())
        tensors = tuple(_tensor(checkpoint, source) for source in plan.parts)
        return _VectorJob(vector_entry(plan.name, plan.shape), plan, tensors)
    experts = tuple(tuple(_reader(checkpoint, source) for source in parts) for parts in plan.parts)
    for readers in experts:
        _check_shapes(plan, readers)
    tensors = tuple(reader.tensor for readers in experts for reader in readers)
    chosen = plan.format or choose_format(tensors, weight_format)
    return _LinearJob(linear_entry(plan.name, chosen, plan.rows, plan.cols, plan.experts), experts, plan.gated)


def _name(checkpoint: Checkpoint, source: Source) -> str | None:
    if source.name in checkpoint:
        return source.name
    return source.fallback if source.fallback is not None and source.fallback in checkpoint else None


def _tensor(checkpoint: Checkpoint, source: Source) -> SourceTensor:
    tensor = checkpoint.tensor(_name(checkpoint, source) or source.name)
    size = tensor.shape[0] if tensor.shape else 1
    if source.rows is not None and not 0 <= source.rows[0] <= source.rows[1] <= size:
        raise CheckpointError(f"{tensor.name!r} has shape {tensor.shape}; rows {source.rows} of it are due")
    return tensor


def _reader(checkpoint: Checkpoint, source: Source) -> _Reader:
    tensor = _tensor(checkpoint, source)
    if len(tensor.shape) != 2:
        raise CheckpointError(f"{tensor.name!r} has shape {tensor.shape}; a matrix is due")
    return _Reader(tensor, source)


def _check_shapes(plan: LinearPlan, readers: tuple[_Reader, ...]) -> None:
    """The sources of one expert must add up to the rows and columns of the plan."""
    for reader in readers:
        if reader.num_cols != plan.cols:
            raise CheckpointError(f"{reader.tensor.name!r} has shape {reader.tensor.shape}; {plan.cols} inputs are due")
    rows = [reader.num_rows for reader in readers]
    half = len(rows) // 2
    total = sum(rows)
    if plan.gated:
        if len(rows) % 2 or sum(rows[:half]) != sum(rows[half:]):
            raise CheckpointError(f"{readers[0].tensor.name!r}: gate and up have {rows} rows; they must agree")
        total = 2 * (-(-sum(rows[:half]) // PANEL_ROWS) * PANEL_ROWS)
    if total != plan.rows:
        names = ", ".join(repr(reader.tensor.name) for reader in readers)
        raise CheckpointError(f"{names}: {total} rows in all where {plan.rows} are due")
