"""Which family a config.json belongs to.

Above: `compiler`. Below: one file per family. To add a family, write its file and list it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.config_reader import nearest
from glm_crush.models.description import Family
from glm_crush.models.llama import LLAMA, MISTRAL

__all__ = ["FAMILIES", "find_family"]

FAMILIES: tuple[Family, ...] = (LLAMA, MISTRAL)


def find_family(config: Mapping[str, object]) -> Family:
    """The family of a configuration, by `architectures` or else by `model_type`.

    Raises:
        UnsupportedModelError: no family has that name; names the nearest.
        CheckpointError: the configuration names neither.
    """
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    for name in names:
        for family in FAMILIES:
            if name in family.architectures:
                return family
    if names:
        raise _unknown("architecture", str(names[0]), [a for family in FAMILIES for a in family.architectures])
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError("config.json: neither architectures nor model_type says what kind of model this is")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    raise _unknown("model_type", model_type, [t for family in FAMILIES for t in family.model_types])


def _unknown(key: str, value: str, known: list[str]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"config.json: {key} {value!r} is not supported{nearest(value, known)} Supported: {', '.join(sorted(known))}."
    )
