"""Tiny random models run by the NumPy executor, for tests that need logits of a real forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glm_crush.config import CrushSettings
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.kernels.sampling import SampleBatch, SampleResult, reference_sample
from glm_crush.llm import LLM
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.loader import LoadedModel
from tests.engine.scripted import decode_step_by_step
from tests.models.tiny import tiny_checkpoint


class SamplingReferenceExecutor(ReferenceExecutor):
    """The reference executor with the sampler's NumPy twin behind it."""

    def forward_sample(self, batch: ForwardBatch, sample_batch: SampleBatch) -> SampleResult:
        return reference_sample(self.forward(batch), sample_batch)

    def decode(self, batch: ForwardBatch, sample_batch: SampleBatch, num_steps: int) -> npt.NDArray[np.int32]:
        return decode_step_by_step(self, batch, sample_batch, num_steps)


def make_reference_executor(
    loaded: LoadedModel, settings: CrushSettings, cache: CachePlan
) -> SamplingReferenceExecutor:
    return SamplingReferenceExecutor(
        loaded.compiled.program,
        DenseWeights.from_packed(loaded.packed, loaded.compiled.program_plan),
        num_blocks=cache.num_blocks,
        block_size=cache.block_size,
    )


def make_llm(folder: Path, *, family: str = "llama", **options: Any) -> LLM:
    """A tiny model of `family`, written, packed and loaded; small cache, NumPy executor."""
    path = tiny_checkpoint(family, folder)
    options = {"kv_cache_tokens": 512, "make_executor": make_reference_executor, **options}
    return LLM(path, **options)
