"""What one render of a chat template may use, and the bookkeeping of it.

Below it: errors. Above it: the sandbox. Sizes are counted in characters; an element of a list counts as many of them
as it takes bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm_crush.errors import TemplateError

__all__ = ["Budget", "TemplateLimits", "text_size"]

_ELEMENT_COST = 32


@dataclass(frozen=True)
class TemplateLimits:
    """What one render may use.

    Attributes:
        source_chars: length of the template itself.
        steps: loop iterations, calls and pieces of output.
        work_chars: characters produced on the way, counted again each time a text is copied or changed.
        output_chars: characters of the result.
        seconds: wall-clock time.
    """

    source_chars: int = 1 << 20
    steps: int = 2_000_000
    work_chars: int = 1 << 27
    output_chars: int = 1 << 24
    seconds: float = 10.0


class Budget:
    """What is left of a render's limits."""

    def __init__(self, limits: TemplateLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._steps = limits.steps
        self._work = limits.work_chars
        self._clock = clock
        self._deadline = clock() + limits.seconds

    def step(self) -> None:
        """One loop iteration, call or piece of output. Raises TemplateError when steps or time run out."""
        self._steps -= 1
        if self._steps < 0:
            raise TemplateError(f"chat template took more than {self._limits.steps} steps; it may never end")
        if self._clock() > self._deadline:
            raise TemplateError(f"chat template ran for more than {self._limits.seconds:g} s")

    def spend(self, characters: int) -> None:
        """Text that exists now, or is about to. Raises TemplateError when it is too much."""
        self._work -= characters
        if self._work < 0:
            raise TemplateError(f"chat template needs more than {self._limits.work_chars} characters of working text")
        self.step()

    def spend_result(self, value: object) -> None:
        """The size of a new string or container, without what its elements hold."""
        if isinstance(value, (str, bytes)):
            self.spend(len(value))
        elif isinstance(value, (list, tuple, dict, set, frozenset)):
            self.spend(len(value) * _ELEMENT_COST)

    def spend_text(self, value: object, times: int = 1) -> None:
        """The text a value would be printed as, so many times."""
        self.spend(text_size(value, self._work + 1) * times)


def text_size(value: object, enough: int) -> int:
    """About how long `str(value)` or its JSON is; stops counting at `enough`.

    An object that occurs twice counts twice, as it would be printed twice.
    """
    if isinstance(value, str):
        return len(value)
    total = 0
    pending = [value]
    while pending and total < enough:
        item = pending.pop()
        if isinstance(item, (str, bytes)):
            total += len(item) + 4
        elif isinstance(item, Mapping):
            total += 4 * len(item) + 2
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            total += 2 * len(item) + 2
            pending.extend(item)
        else:
            total += 16 if not isinstance(item, int) else item.bit_length() // 3 + 2
    return total
