"""What a compiled model asks the packer for: which source tensors make up each packed weight.

Above: `models` writes plans, `weights.pack` carries them out. This module knows names and shapes only,
neither files nor layouts.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WEIGHT_FORMATS", "LinearPlan", "Source", "VectorPlan", "WeightPlan", "gated_rows"]

WEIGHT_FORMATS = ("auto", "q4", "q8", "bf16", "f32")


@dataclass(frozen=True)
class Source:
    """A checkpoint tensor, or some rows of it.

    Attributes:
        name: the Hugging Face tensor name.
        rows: half-open range of rows to take, or None for all.
        transpose: use the transpose of the (sliced) matrix.
        fallback: tensor to use where the checkpoint has no `name` (tied embeddings, shared MTP heads).
    """

    name: str
    rows: tuple[int, int] | None = None
    transpose: bool = False
    fallback: str | None = None


@dataclass(frozen=True)
class LinearPlan:
    """A packed linear weight `[experts, rows, cols]`.

    Attributes:
        name: name in the packed file.
        parts: per expert, the sources whose rows are concatenated.
        rows: rows of one expert; for a gated weight `gated_rows(intermediate_size)`.
        cols: input width.
        gated: the first half of each expert's sources are gate rows, the second half up rows; they are
            interleaved by panels of 16, each half padded with zero rows to a multiple of 16.
        format: packed format, or None to let the packer choose by weight format and sources.
    """

    name: str
    parts: tuple[tuple[Source, ...], ...]
    rows: int
    cols: int
    gated: bool = False
    format: str | None = None

    @property
    def experts(self) -> int:
        return len(self.parts)


@dataclass(frozen=True)
class VectorPlan:
    """A plain float32 array (norm weights, biases, router matrices): the sources flattened and concatenated.

    Attributes:
        shape: its shape; the number of values must agree with the sources.
        add: added to every value (families whose norm multiplies by `1 + w`).
        default: value of every element where the sources are missing; None makes them required.
    """

    name: str
    parts: tuple[Source, ...]
    shape: tuple[int, ...]
    add: float = 0.0
    default: float | None = None


WeightPlan = LinearPlan | VectorPlan


def gated_rows(intermediate_size: int) -> int:
    """Rows of a gated weight: gate and up, each padded to a multiple of 16. `gated_rows(24) == 64`."""
    return 2 * (-(-intermediate_size // 16) * 16)
