"""The angles of rotary embeddings: computed with NumPy when they are first read, which only who runs the model does.

All of them in float32, in the order transformers uses, so that the end of a long context agrees. Above: `rotary`, which
reads from config.json which ones a model has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float32 = npt.NDArray[np.float32]

__all__ = ["Angles", "LinearAngles", "Llama3Angles", "YarnAngles"]


@dataclass(frozen=True)
class Angles(Sequence[float]):
    """Angle per position of `dim / 2` pairs of dimensions: `theta ** (-2 i / dim)`."""

    theta: float
    dim: int

    def __len__(self) -> int:
        return self.dim // 2

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...

    def __getitem__(self, index: int | slice) -> float | tuple[float, ...]:
        return self._values[index]

    @cached_property
    def _values(self) -> tuple[float, ...]:
        return tuple(float(angle) for angle in self._scaled())

    def _scaled(self) -> Float32:
        """The angles; a subclass scales them."""
        import numpy as np

        return (1.0 / self._powers()).astype(np.float32)

    def _powers(self) -> Float32:
        import numpy as np

        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        powers: Float32 = np.power(np.float32(self.theta), exponents, dtype=np.float32)
        return powers


@dataclass(frozen=True)
class LinearAngles(Angles):
    """All divided by `factor`."""

    factor: float

    def _scaled(self) -> Float32:
        import numpy as np

        return super()._scaled() / np.float32(self.factor)


@dataclass(frozen=True)
class Llama3Angles(Angles):
    """Llama 3.1: slow angles are divided by `factor`, fast ones kept, those between are blended.

    Slow ones turn less than `low` times in `context` positions, fast ones more than `high` times.
    """

    factor: float
    low: float
    high: float
    context: int

    def _scaled(self) -> Float32:
        import numpy as np

        frequencies = super()._scaled()
        factor, low, high = np.float32(self.factor), np.float32(self.low), np.float32(self.high)
        context = np.float32(self.context)
        wavelength = np.float32(2 * math.pi) / frequencies
        smooth = (context / wavelength - low) / (high - low)
        blended = (1 - smooth) * frequencies / factor + smooth * frequencies
        scaled = np.where(wavelength > context / low, frequencies / factor, blended)
        return np.where(wavelength < context / high, frequencies, scaled).astype(np.float32)


@dataclass(frozen=True)
class YarnAngles(Angles):
    """YaRN (section 3.4): dimensions before `first` keep their angle, those after `last` are divided by `factor`."""

    factor: float
    first: float
    last: float

    def _scaled(self) -> Float32:
        import numpy as np

        ramp = (np.arange(self.dim // 2, dtype=np.float32) - self.first) / (self.last - self.first)
        ramp = np.clip(ramp, 0, 1).astype(np.float32)
        powers = self._powers()
        interpolated = 1.0 / (np.float32(self.factor) * powers)
        frequencies: Float32 = (interpolated * ramp + (1.0 / powers) * (1 - ramp)).astype(np.float32)
        return frequencies
