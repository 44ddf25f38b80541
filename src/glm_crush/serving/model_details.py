"""What is known of a served model beside how to run it, for the routes that show models.

Above: the protocol adapters. Below: the loader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glm_crush.models.loader import LoadedModel
from glm_crush.weights.inspector import list_packed_tensors

__all__ = ["ModelDetails"]


@dataclass(frozen=True, kw_only=True)
class ModelDetails:
    """One model in numbers.

    Attributes:
        family: `model_type` of its config. weight_format: of its weights at run time. num_parameters: of all its
            weights. size_bytes: of the packed weights. digest: sha256 of the checkpoint it was made from.
        config: its config.json. chat_template: Jinja source, None if it came without one.
    """

    family: str = "unknown"
    weight_format: str = "unknown"
    num_parameters: int = 0
    size_bytes: int = 0
    digest: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None

    @classmethod
    def of(cls, loaded: LoadedModel) -> ModelDetails:
        """Read off a loaded model."""
        header, tensors = loaded.packed.header, list_packed_tensors(loaded.packed)
        formats = Counter[str]()
        for tensor in tensors:
            formats[tensor.dtype] += tensor.num_values
        return cls(
            family=str(header.config.get("model_type", "unknown")),
            weight_format=formats.most_common(1)[0][0] if formats else header.weight_format,
            num_parameters=formats.total(),
            size_bytes=loaded.packed.weight_bytes,
            digest=header.source_hash,
            config=header.config,
            chat_template=loaded.chat_template,
        )
