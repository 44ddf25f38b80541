"""Collects the pieces of a program while blocks are lowered: buffers, tables, operations, weights to pack.

Above: `blocks` and `latent_attention` emit into it, `compiler` starts and finishes it. It knows no family.
"""

from __future__ import annotations

from glm_crush.kernels.program import CacheLayer, Norm, Op, Program, Rope, View
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan, gated_rows

__all__ = ["ProgramBuilder"]

RESIDUAL = "residual"


class ProgramBuilder:
    """Numbers buffers, rotary tables and cache layers, and names each packed weight once.

    Buffers are known by what they hold and shared between layers; a buffer is as wide as its widest use.
    Buffer 0 is the residual stream.
    """

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size
        self._buffers: dict[str, tuple[int, int]] = {}
        self._ropes: list[Rope] = []
        self._caches: list[CacheLayer] = []
        self._ops: list[Op] = []
        self._plan: dict[str, WeightPlan] = {}
        self.residual = self.buffer(RESIDUAL, hidden_size)

    def buffer(self, name: str, width: int) -> View:
        """The first `width` columns of the buffer called `name`."""
        index, widest = self._buffers.get(name, (len(self._buffers), 0))
        self._buffers[name] = (index, max(width, widest))
        return View(index, 0, width)

    def rope(self, rope: Rope) -> int:
        """Index of the rotary table; equal tables are one."""
        if rope not in self._ropes:
            self._ropes.append(rope)
        return self._ropes.index(rope)

    def cache(self, layer: CacheLayer) -> int:
        """Index of a new cache layer."""
        self._caches.append(layer)
        return len(self._caches) - 1

    def add(self, op: Op) -> None:
        """Appends one operation."""
        self._ops.append(op)

    def linear(self, name: str, sources: tuple[Source, ...], rows: int, cols: int) -> str:
        """Asks for one matrix `[rows, cols]`, the rows of `sources` concatenated; returns its packed name."""
        return self._pack(LinearPlan(name, (sources,), rows, cols))

    def gated(self, name: str, gate: Source, up: Source, intermediate_size: int, cols: int) -> str:
        """Asks for a gate and an up matrix, interleaved by panels; returns its packed name."""
        return self._pack(LinearPlan(name, ((gate, up),), gated_rows(intermediate_size), cols, gated=True))

    def stacked(
        self, name: str, experts: tuple[tuple[Source, ...], ...], rows: int, cols: int, *, gated: bool = False
    ) -> str:
        """Asks for one matrix per expert or head, back to back; returns the packed name."""
        return self._pack(LinearPlan(name, experts, rows, cols, gated=gated))

    def vector(self, name: str, sources: tuple[Source, ...], shape: tuple[int, ...], add: float = 0.0) -> str:
        """Asks for a float32 array; returns its packed name."""
        return self._pack(VectorPlan(name, sources, shape, add))

    def norm(self, name: str, width: int, eps: float, add: float = 0.0) -> Norm:
        """Asks for the norm weight that the checkpoint calls `name`."""
        return Norm(self.vector(name, (Source(name),), (width,), add), eps)

    @property
    def plan(self) -> tuple[WeightPlan, ...]:
        """What to pack, in the order in which the program reads it."""
        return tuple(self._plan.values())

    def program(self, vocab_size: int, max_position: int, *, hidden_input: str | None = None) -> Program:
        """The finished program; `hidden_input` is the buffer that its caller fills."""
        widths = tuple(width for _, width in self._buffers.values())
        return Program(
            hidden_size=self.hidden_size,
            vocab_size=vocab_size,
            max_position=max_position,
            buffers=widths,
            ropes=tuple(self._ropes),
            caches=tuple(self._caches),
            ops=tuple(self._ops),
            hidden_input=None if hidden_input is None else self._buffers[hidden_input][0],
        )

    def _pack(self, entry: WeightPlan) -> str:
        existing = self._plan.setdefault(entry.name, entry)
        assert existing == entry, f"two different weights are called {entry.name}"
        return entry.name
