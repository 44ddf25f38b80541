"""Encoders compute what transformers computes, alone and in batches of any texts, on every instruction set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_crush.kernels._native import kernels
from glm_crush.kernels.native import Executor
from glm_crush.models.loader import LoadedModel, load_model
from glm_crush.models.registry import FAMILIES
from glm_crush.models.sentence import Pooling, SentenceConfig
from tests.golden.cases import CASES
from tests.golden.encoder_cases import ENCODER_CASES, LENGTHS, EncoderCase, encoder_path, encoder_texts
from tests.models.encoder_run import reference_encoder, whole_texts
from tests.models.tiny_encoder import encoder_checkpoint, encoder_config, sentence_files

EMBEDDING_CASES = [case for case in ENCODER_CASES if not case.overrides]
every_case = pytest.mark.parametrize("case", ENCODER_CASES, ids=lambda case: case.name)
every_pooling = pytest.mark.parametrize("pooling", ["mean", "first", "last"])
MODES = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}


def golden(case: EncoderCase, pooling: Pooling = "mean", *, normalize: bool = True) -> np.ndarray:
    """The committed rows; of an embedding model what pooling makes of them."""
    rows = np.load(encoder_path(case), allow_pickle=False)
    if case.overrides:
        return rows
    texts = np.split(rows, np.cumsum(LENGTHS)[:-1])
    pooled = np.stack([{"mean": text.mean(0), "first": text[0], "last": text[-1]}[pooling] for text in texts])
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled


def load(case: EncoderCase, folder: Path, sentence: dict | None = None, weight_format: str = "f32") -> LoadedModel:
    path = encoder_checkpoint(case.family, folder, case.seed, sentence=sentence, **case.overrides)
    return load_model(path, cache_dir=folder, weight_format=weight_format)


def native(model: LoadedModel, kernels: str | None = None, *, num_threads: int = 2, kv_dtype: str = "f32") -> Executor:
    program = model.compiled.program
    return Executor(program, model.packed, num_threads=num_threads, num_blocks=16, kv_dtype=kv_dtype, kernels=kernels)


@pytest.mark.requirement("M1")
@every_case
def test_reference_rows_equal_those_of_transformers(case: EncoderCase) -> None:
    compiled, executor = reference_encoder(encoder_config(case.family, **case.overrides), case.seed)
    rows = executor.forward(whole_texts(encoder_texts(case), compiled.readout.rows))
    np.testing.assert_allclose(rows, golden(case), atol=1e-4, rtol=0)


@pytest.mark.requirement("M1")
@pytest.mark.parametrize("variant", kernels.available())
@every_case
def test_native_rows_equal_those_of_transformers(case: EncoderCase, variant: str, tmp_path: Path) -> None:
    model = load(case, tmp_path)
    rows = native(model, variant).forward(whole_texts(encoder_texts(case), model.compiled.readout.rows))
    np.testing.assert_allclose(rows, golden(case), atol=1e-4, rtol=0)


@every_pooling
@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_files_decide_how_vectors_are_pooled(pooling: Pooling, normalize: bool, tmp_path: Path) -> None:
    case = EMBEDDING_CASES[0]
    model = load(case, tmp_path, sentence_files(mode=MODES[pooling], normalize=normalize))
    assert (model.compiled.readout.task, model.compiled.readout.rows) == ("embed", pooling)
    wanted = golden(case, pooling, normalize=normalize)
    batch = whole_texts(encoder_texts(case), pooling)
    np.testing.assert_allclose(native(model).forward(batch), wanted, atol=1e-4, rtol=0)
    config = encoder_config(case.family)
    _, reference = reference_encoder(config, case.seed, sentence=SentenceConfig(pooling, normalize))
    np.testing.assert_allclose(reference.forward(batch), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("weight_format", ["q4", "q8", "bf16", "f32"])
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16"])
@every_case
def test_a_text_gets_the_same_bits_alone_and_in_any_batch(
    case: EncoderCase, weight_format: str, kv_dtype: str, tmp_path: Path
) -> None:
    model = load(case, tmp_path, weight_format=weight_format)
    texts, rows = encoder_texts(case), model.compiled.readout.rows
    alone = native(model, num_threads=1, kv_dtype=kv_dtype)
    single = np.concatenate([alone.forward(whole_texts([text], rows)).copy() for text in texts])
    together = native(model, num_threads=3, kv_dtype=kv_dtype).forward(whole_texts(texts, rows))
    np.testing.assert_array_equal(together, single)


@pytest.mark.parametrize(("weight_format", "cosine"), [("bf16", 0.999), ("q8", 0.999), ("q4", 0.95)])
@pytest.mark.parametrize("case", EMBEDDING_CASES, ids=lambda case: case.name)
def test_quantised_vectors_stay_near(case: EncoderCase, weight_format: str, cosine: float, tmp_path: Path) -> None:
    model = load(case, tmp_path, weight_format=weight_format)
    vectors = native(model, kv_dtype="bf16").forward(whole_texts(encoder_texts(case), "mean"))
    assert (np.sum(vectors * golden(case), axis=1) > cosine).all()


def test_every_family_has_golden_rows() -> None:
    assert {case.family for case in (*CASES, *ENCODER_CASES)} == {family.name for family in FAMILIES}
