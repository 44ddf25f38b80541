"""The encoders whose results are committed in `tests/golden/encoders`; written and compared live as the decoders' are.

Each file holds the rows of three texts of different lengths, computed one by one: batches must give the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENCODER_CASES", "EncoderCase", "encoder_path", "encoder_texts"]

LENGTHS = (48, 1, 17)  # the first is as long as the tiny models allow


@dataclass(frozen=True)
class EncoderCase:
    """One tiny encoder. For an embedding model the rows are the last hidden states of every token."""

    name: str
    family: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


_THREE = {"id2label": {"0": "no", "1": "maybe", "2": "yes"}}
_ONE = {"id2label": {"0": "relevant"}}

ENCODER_CASES: tuple[EncoderCase, ...] = (
    EncoderCase("bert", "bert"),
    EncoderCase("bert_reranker", "bert", {"architectures": ["BertForSequenceClassification"], **_ONE}),
    EncoderCase("bert_tokens", "bert", {"architectures": ["BertForTokenClassification"], **_THREE}),
    EncoderCase("bert_masked", "bert", {"architectures": ["BertForMaskedLM"]}),
    EncoderCase("xlm_roberta", "xlm-roberta"),
    EncoderCase(
        "xlm_roberta_classifier",
        "xlm-roberta",
        {"architectures": ["XLMRobertaForSequenceClassification"], **_THREE},
    ),
    EncoderCase("xlm_roberta_tokens", "xlm-roberta", {"architectures": ["XLMRobertaForTokenClassification"]}),
    EncoderCase("xlm_roberta_masked", "xlm-roberta", {"architectures": ["XLMRobertaForMaskedLM"]}),
)


def encoder_path(case: EncoderCase) -> Path:
    """Where the rows of a case are."""
    return Path(__file__).parent / "encoders" / f"{case.name}.npy"


def encoder_texts(case: EncoderCase) -> list[tuple[list[int], list[int]]]:
    """Token ids and types of the three texts; no id is padding, types change in the middle where there are two."""
    state = np.random.RandomState(2000 + case.seed)
    texts = []
    for length in LENGTHS:
        ids = [int(token) for token in state.randint(4, 269, length)]
        second = length // 2 if case.family == "bert" else length
        texts.append((ids, [0] * second + [1] * (length - second)))
    return texts
