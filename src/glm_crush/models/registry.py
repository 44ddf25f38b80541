"""Which family a config.json belongs to.

Above: `compiler`. Below: one file per family. To add a family, write its file and list it here.
"""

from __future__ import annotations

from collections.abc import Mapping

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.bert import BERT, XLM_ROBERTA
from glm_crush.models.config_reader import nearest
from glm_crush.models.description import Family
from glm_crush.models.gemma3 import GEMMA3
from glm_crush.models.glm import GLM, GLM4
from glm_crush.models.glm4_moe import GLM4_MOE
from glm_crush.models.glm4_moe_lite import GLM4_MOE_LITE
from glm_crush.models.llama import LLAMA, MISTRAL
from glm_crush.models.mixtral import MIXTRAL
from glm_crush.models.qwen2 import QWEN2
from glm_crush.models.qwen3 import QWEN3
from glm_crush.models.qwen3_moe import QWEN3_MOE

__all__ = ["FAMILIES", "find_family"]

FAMILIES: tuple[Family, ...] = (
    GLM4_MOE,
    GLM4_MOE_LITE,
    GLM4,
    GLM,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    GEMMA3,
    BERT,
    XLM_ROBERTA,
)


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
