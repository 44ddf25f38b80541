"""What a compiled model costs, packed or not yet: bytes of weights, bytes read per token.

Above: `glm inspect` and memory budgets. Below: plans and layouts. Nothing is loaded; the numbers are those of the
packed file, padding included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glm_crush.kernels.program import Embed, HeadLinear, Linear, Logits, MixtureOfExperts
from glm_crush.models.compiler import CompiledModel
from glm_crush.weights.packed_file import PackedEntry
from glm_crush.weights.packed_size import packed_nbytes
from glm_crush.weights.plan import LinearPlan

__all__ = ["Footprint", "packed_footprint", "weight_footprint"]


@dataclass(frozen=True)
class Footprint:
    """Weights of one model in one format.

    Attributes:
        weight_bytes: the packed file's weights, all experts and prediction layers included.
        read_bytes_per_token: what decoding one token must read: every weight once, but only the experts a token is
            routed to and one row of the embedding table. Bandwidth divided by this bounds tokens per second.
    """

    weight_bytes: int
    read_bytes_per_token: int


def weight_footprint(compiled: CompiledModel, weight_format: str) -> Footprint:
    """The footprint if every weight whose format is free is packed as `weight_format` ("q4", "q8", "bf16", "f32")."""
    sizes = {}
    for entry in compiled.plan:
        if isinstance(entry, LinearPlan):
            sizes[entry.name] = packed_nbytes(entry.format or weight_format, entry.rows, entry.cols, entry.experts)
        else:
            count = 1
            for dimension in entry.shape:
                count *= dimension
            sizes[entry.name] = 4 * count
    return Footprint(sum(sizes.values()), _read_bytes(compiled, sizes))


def packed_footprint(compiled: CompiledModel, entries: Iterable[PackedEntry]) -> Footprint:
    """The footprint of a packed file with these entries, written or only planned (`weights.pack.packed_entries`)."""
    sizes = {entry.name: entry.nbytes for entry in entries}
    return Footprint(sum(sizes.values()), _read_bytes(compiled, sizes))


def _read_bytes(compiled: CompiledModel, sizes: dict[str, int]) -> int:
    """Sum over the operations of a decode step; a weight that two operations use is read by both."""
    linears = {entry.name: entry for entry in compiled.plan if isinstance(entry, LinearPlan)}
    total = 0
    for op in compiled.program.ops:
        if isinstance(op, Linear | HeadLinear | Logits):
            total += sizes[op.weight]
        elif isinstance(op, Embed):
            total += sizes[op.table] // linears[op.table].rows
        elif isinstance(op, MixtureOfExperts):
            total += (sizes[op.gate_up] + sizes[op.down]) * op.top_k // op.num_experts + sizes[op.router]
    return total
