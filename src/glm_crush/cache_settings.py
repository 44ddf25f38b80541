"""The settings of the response cache: answers that are given again without being computed again.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glm_crush.config_field import setting

__all__ = ["CacheSettings"]


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Answers that are given again without being computed again."""

    enabled: bool = setting(True, "whether deterministic answers are kept and given again: true or false")
    max_bytes: int = setting(64 * 2**20, "memory for kept answers", low=0)
    ttl_seconds: float = setting(3600.0, "how long an answer is kept", low=1)
    persist: bool = setting(True, "whether answers outlive a restart, in the database: true or false")
    redis_url: str | None = setting(
        None, "Redis that keeps the answers of several servers, redis://host:port/0; takes the place of the database"
    )
    semantic: Literal["off", "asked", "on"] = setting(
        "off", "whether a similar question gets a kept answer: off, asked (requests that ask for it), on"
    )
    semantic_error_bound: float = setting(
        0.02, "largest share of answers to similar questions that may be wrong, below 0.5", low=0.0001
    )
    semantic_answer_similarity: float = setting(
        0.95, "answers at least so similar count as the same, from 0 to 1; 1 = only equal text does", low=0
    )
    semantic_max_entries: int = setting(1000, "questions of one tenant that others are compared with", low=1)
    semantic_max_bytes: int = setting(64 * 2**20, "memory for the questions of all tenants", low=0)
    semantic_ttl_seconds: float = setting(
        7 * 86400.0, "how long a question, and what was learnt about it, is kept", low=1
    )
