"""The settings of the guard: what is done about what is found in requests and replies.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

# ruff: noqa: RUF009 (setting returns a dataclass field)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm_crush.config_field import setting

__all__ = ["GuardSettings"]


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """Filters of requests and replies; off unless `input`, `output` or `rules_file` is set."""

    input: str | None = setting(
        None, "what is done about findings in requests, such as 'pii=redact, secrets=block, injection=flag'"
    )
    output: str | None = setting(None, "and in replies, such as 'pii=redact, secrets=redact'")
    rules_file: Path | None = setting(
        None, "TOML file with own words, patterns and topics, and with policies of applications and keys"
    )
    injection_threshold: float = setting(0.5, "score from which a text counts as prompt injection", low=0)
    max_input_characters: int | None = setting(None, "longest request for the rule length", low=1)
    max_output_characters: int | None = setting(None, "longest reply for the rule length", low=1)
    model: str | None = setting(
        None, "served model that judges for the rule model and for /v1/moderations; unset = rules alone judge"
    )
    model_style: Literal["questions", "llama-guard"] = setting(
        "questions", "how it is asked: a yes-or-no question for each category, or as Llama Guard is"
    )
    model_threshold: float = setting(0.5, "score from which its verdict counts", low=0)
