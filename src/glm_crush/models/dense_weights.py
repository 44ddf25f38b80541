"""Weights as plain float32 numbers for the reference executor: unpacked from a packed file, or from tensors by plan.

Above: tests, `make oracle`. Below: `weights.layout`, `weights.plan`. Whole models are held in float32, so this is
for small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from glm_crush.errors import CheckpointError
from glm_crush.kernels.reference_math import DenseWeight, Float32
from glm_crush.weights.layout import interleave_gated, unpack
from glm_crush.weights.packed_file import PackedFile
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan

__all__ = ["DenseWeights"]


class DenseWeights:
    """Linear weights and vectors by their packed names."""

    def __init__(self, linears: Mapping[str, DenseWeight], vectors: Mapping[str, Float32]) -> None:
        self._linears = linears
        self._vectors = vectors

    @classmethod
    def from_packed(cls, packed: PackedFile, plan: Iterable[WeightPlan]) -> DenseWeights:
        """Unpacks the weights of `plan` from a packed file."""
        linears: dict[str, DenseWeight] = {}
        vectors: dict[str, Float32] = {}
        for entry in plan:
            if isinstance(entry, VectorPlan):
                vectors[entry.name] = packed.vector(entry.name)
                continue
            tensor = packed.tensor(entry.name)
            values = unpack(tensor.data, tensor.format, tensor.rows, tensor.cols, tensor.experts)
            shape = (tensor.experts, tensor.rows, tensor.cols)
            linears[entry.name] = DenseWeight(values.reshape(shape), tensor.format)
        return cls(linears, vectors)

    @classmethod
    def from_tensors(cls, plan: Iterable[WeightPlan], tensor: Callable[[str], Float32]) -> DenseWeights:
        """Assembles the weights of `plan` without packing.

        Args:
            plan: the weights.
            tensor: float32 values of a checkpoint tensor, `[out, in]`.

        Raises:
            CheckpointError: the sources of an entry do not have its shape.
        """
        linears: dict[str, DenseWeight] = {}
        vectors: dict[str, Float32] = {}
        for entry in plan:
            if isinstance(entry, VectorPlan):
                values = np.concatenate([_read(source, tensor).reshape(-1) for source in entry.parts])
                vectors[entry.name] = _shaped(entry.name, values + np.float32(entry.add), entry.shape)
            else:
                stacked = np.stack([_expert(entry, sources, tensor) for sources in entry.parts])
                linears[entry.name] = DenseWeight(stacked)
        return cls(linears, vectors)

    def linear(self, name: str) -> DenseWeight:
        """The linear weight of that name."""
        return self._linears[name]

    def vector(self, name: str) -> Float32:
        """The float32 array of that name."""
        return self._vectors[name]


def _expert(entry: LinearPlan, sources: tuple[Source, ...], tensor: Callable[[str], Float32]) -> Float32:
    parts = [_read(source, tensor) for source in sources]
    if entry.gated:
        half = len(parts) // 2
        values = interleave_gated(np.concatenate(parts[:half]), np.concatenate(parts[half:]))
    else:
        values = np.concatenate(parts)
    if values.shape != (entry.rows, entry.cols):
        raise CheckpointError(f"{entry.name}: the sources make {values.shape}, not {(entry.rows, entry.cols)}")
    return np.asarray(values, np.float32)


def _read(source: Source, tensor: Callable[[str], Float32]) -> Float32:
    values = tensor(source.name)
    if source.rows is not None:
        values = values[source.rows[0] : source.rows[1]]
    return values.T if source.transpose else values


def _shaped(name: str, values: Float32, shape: tuple[int, ...]) -> Float32:
    if values.size != np.prod(shape):
        raise CheckpointError(f"{name}: the sources make {values.size} values, not {shape}")
    return np.asarray(values.reshape(shape), np.float32)
