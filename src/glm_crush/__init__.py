"""GLM-Crush: the GLM language model family on machines you own.

    from glm_crush import LLM, SamplingParams

What is named here is loaded when it is first used: importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glm_crush.client import AsyncClient, Client
    from glm_crush.encoders import EmbeddingModel, RerankModel
    from glm_crush.llm import LLM
    from glm_crush.types import Message, RequestOutput, SamplingParams, StructuredOutput

__all__ = [
    "LLM",
    "AsyncClient",
    "Client",
    "EmbeddingModel",
    "Message",
    "RequestOutput",
    "RerankModel",
    "SamplingParams",
    "StructuredOutput",
]

__version__ = "0.1.0"

_HOMES = dict.fromkeys(__all__, "glm_crush.types") | {
    "LLM": "glm_crush.llm",
    "AsyncClient": "glm_crush.client",
    "Client": "glm_crush.client",
    "EmbeddingModel": "glm_crush.encoders",
    "RerankModel": "glm_crush.encoders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glm_crush' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
