"""Typed reading of GGUF metadata; every key of the architecture must be read or known to be harmless.

Above: `weights.gguf_config`. Knows keys and types, no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from glm_crush.errors import CheckpointError, UnsupportedModelError

__all__ = ["GgufMetadata"]

# Keys under "<architecture>." that do not change the forward pass.
_HARMLESS: Final = frozenset(
    {
        "vocab_size",
        "tensor_data_layout",
        "rope.scaling.finetuned",
        "attention.value_length",  # equals key_length where there is no value_length_mla; shapes are checked
        "embedding_length_out",
    }
)


class GgufMetadata:
    """The keys of one architecture, without their prefix.

    All readers raise CheckpointError naming the key when it is missing (and has no default) or of the wrong type.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], architecture: str) -> None:
        """Read `values` under `architecture`; `path` names the file in messages."""
        self.path = path
        self._values = values
        self._prefix = architecture
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        """True when the architecture's `key` is there."""
        return f"{self._prefix}.{key}" in self._values

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; of a per-layer array whose values agree, that value."""
        value = self._value(key, default)
        if isinstance(value, list) and value:
            if any(item != value[0] for item in value):
                raise UnsupportedModelError(
                    f"{self.path}: {self._prefix}.{key} differs between layers; that is not supported"
                )
            value = value[0]
        if type(value) is not int or not 0 <= value < 2**31:
            raise self._malformed(key, value, "a whole number below 2^31")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, in its shortest float32 spelling (1e-05, not 9.999999747378752e-06)."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._malformed(key, value, "a finite number")
        with np.errstate(over="ignore"):
            short = float(str(np.float32(value)))
        return short if math.isfinite(short) else float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._malformed(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._malformed(key, value, "a string")
        return value

    def expect(self, key: str, *accepted: object) -> None:
        """Refuse a key, if it is there, whose value is not one of `accepted`."""
        if self.has(key) and (value := self._value(key, None)) not in accepted:
            raise UnsupportedModelError(f"{self.path}: {self._prefix}.{key} is {str(value)[:80]}; only {accepted} run")

    def finish(self) -> None:
        """Refuse keys that nobody read.

        Raises:
            UnsupportedModelError: such a key would change the model's output unnoticed.
        """
        prefix = f"{self._prefix}."
        for name in self._values:
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and key not in self._read and key not in _HARMLESS:
                raise UnsupportedModelError(f"{self.path}: key {name!r} is not one that is run")

    def _value(self, key: str, default: object) -> object:
        self._read.add(key)
        value = self._values.get(f"{self._prefix}.{key}", default)
        if value is None:
            raise CheckpointError(f"{self.path} has no key {self._prefix}.{key}")
        return value

    def _malformed(self, key: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {self._prefix}.{key} is {str(value)[:80]!r}; {wanted} is due")
