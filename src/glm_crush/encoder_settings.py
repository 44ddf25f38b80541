"""The settings of embedding models and rerankers.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glm_crush.config_field import setting

__all__ = ["DEFAULT_EMBEDDING_MODEL", "EncoderSettings"]

DEFAULT_EMBEDDING_MODEL = "minilm"


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Embedding models and rerankers."""

    embedding_model: str | None = setting(None, "embedding model served beside the chat model: a store name or a path")
    reranker_model: str | None = setting(None, "cross-encoder served beside it; unset = rank by embeddings")
    weight_format: Literal["auto", "q4", "q8", "bf16", "f32"] = setting(
        "auto", "run-time weights: auto (as the source), q4, q8, bf16, f32"
    )
    max_length: int | None = setting(None, "longest text in tokens; unset = what the model's publisher says", low=8)
    max_num_batched_tokens: int = setting(1024, "tokens that texts of one native call may have together", low=16)
    max_queue_size: int = setting(8192, "texts that may wait before new ones are refused", low=1)
