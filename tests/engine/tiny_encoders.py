"""Tiny encoders that are ready to run, and one that only counts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from glm_crush.config import CrushSettings, EncoderSettings
from glm_crush.engine.encoder import Encoder, build_encoder
from glm_crush.engine.encoder_runner import EncoderRunner
from glm_crush.kernels.program import ForwardBatch
from glm_crush.models.heads import Readout
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.tokenizer.encoded_text import EncodedText
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files

__all__ = ["CountingExecutor", "counting_runner", "encoded", "loaded_encoder", "tiny_encoder"]

RERANKER: dict[str, Any] = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "relevant"}}


def loaded_encoder(folder: Path, family: str = "bert", weight_format: str = "f32", **overrides: Any) -> LoadedModel:
    """A loaded tiny encoder: an embedding model with mean pooling unless an architecture says otherwise."""
    sentence = None if "architectures" in overrides else sentence_files()
    path = encoder_checkpoint(family, folder, sentence=sentence, **overrides)
    return load_model(path, cache_dir=folder, weight_format=weight_format)


def tiny_encoder(
    folder: Path, family: str = "bert", *, settings: EncoderSettings | None = None, **over: Any
) -> Encoder:
    """The same with its executor."""
    return build_encoder(
        loaded_encoder(folder, family, **over), settings or EncoderSettings(), CrushSettings(threads=2)
    )


class CountingExecutor:
    """Gives each text its first token id and its length; notes the lengths of each call, and can be held.

    Attributes:
        calls: lengths of the texts of each call. gate: cleared while calls must wait. entered: set when one began.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error = error

    def forward(self, batch: ForwardBatch) -> np.ndarray:
        self.entered.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        lengths = np.diff(batch.query_start)
        self.calls.append(lengths.tolist())
        return np.stack([batch.token_ids[batch.query_start[:-1]], lengths], axis=1).astype(np.float32)


def counting_runner(executor: CountingExecutor, *, max_tokens: int = 10, max_texts: int = 100) -> EncoderRunner:
    return EncoderRunner(
        executor, Readout("embed", "first"), width=2, max_batch_tokens=max_tokens, max_batch_texts=max_texts
    )


def encoded(*texts: tuple[int, int]) -> list[EncodedText]:
    """Texts of (first token id, length)."""
    return [EncodedText([first] + [0] * (length - 1)) for first, length in texts]
