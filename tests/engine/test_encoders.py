"""Embedding models and rerankers: limits, truncation, dimensions, prompts, methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_crush import EmbeddingModel, RerankModel
from glm_crush.config import CrushSettings, EncoderSettings
from glm_crush.engine.embedder import NativeEmbedder, shorten_vectors
from glm_crush.engine.encoder import build_encoder
from glm_crush.engine.encoder_runner import take_batch
from glm_crush.engine.reranker import CosineReranker, CrossEncoderReranker
from glm_crush.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthError,
    InvalidParameterError,
    UnsupportedModelError,
)
from glm_crush.models.loader import load_model
from glm_crush.models.sentence import SentenceConfig
from tests.engine.tiny_encoders import RERANKER, encoded, loaded_encoder, tiny_encoder
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files

pytestmark = pytest.mark.requirement("E12")


@pytest.fixture
def embedder(tmp_path: Path) -> NativeEmbedder:
    return NativeEmbedder("tiny", tiny_encoder(tmp_path))


def test_texts_get_unit_vectors_that_do_not_depend_on_their_company(embedder: NativeEmbedder) -> None:
    texts = ["the cat sat", "rain", "what is a dog, in the rain?", ""]
    together = embedder.embed(texts)
    assert together.vectors.shape == (4, 72)
    assert together.num_tokens == 5 + 3 + 11 + 2  # [CLS] and [SEP] counted
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder.embed([text]).vectors for text in texts])
    np.testing.assert_array_equal(together.vectors, alone)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_text_that_is_too_long_is_refused_or_cut_as_asked(family: str, tmp_path: Path) -> None:
    embedder = NativeEmbedder("tiny", tiny_encoder(tmp_path, family))
    long = "the cat " * 40
    with pytest.raises(ContextLengthError, match=r"texts\[1\] has \d+ tokens; this model takes 48"):
        embedder.embed(["the", long])
    cut = embedder.embed([long], truncate=True)
    assert cut.num_tokens == 48
    kept = embedder.encoder.encode(long, truncate_to=48)
    assert kept.num_cut > 0
    np.testing.assert_array_equal(cut.vectors, embedder.embed([kept.token_ids]).vectors)


def test_token_ids_are_taken_as_they_are(embedder: NativeEmbedder) -> None:
    ids = embedder.encoder.encode("the cat").token_ids
    np.testing.assert_array_equal(embedder.embed([ids]).vectors, embedder.embed(["the cat"]).vectors)
    with pytest.raises(InvalidParameterError, match=r"token id 269; this model's ids lie in \[0, 269\)"):
        embedder.embed([[2, 269]])
    with pytest.raises(InvalidParameterError, match="empty"):
        embedder.embed([[]])


def test_shortened_vectors_have_length_1_again() -> None:
    vectors = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(shorten_vectors(vectors, 1), [[1], [0]])
    np.testing.assert_allclose(shorten_vectors(vectors, 2), [[1, 0], [0, 1]])
    assert shorten_vectors(vectors, None) is vectors
    assert shorten_vectors(vectors, 3) is vectors
    with pytest.raises(InvalidParameterError, match="dimensions is 4; this model's vectors have 3"):
        shorten_vectors(vectors, 4)


def test_prompts_of_the_publisher_are_put_before_texts_of_their_kind(tmp_path: Path) -> None:
    files = sentence_files()
    files["config_sentence_transformers.json"] = {"prompts": {"query": "what is ", "document": ""}}
    path = encoder_checkpoint("bert", tmp_path, sentence=files)
    embedder = EmbeddingModel(path, weight_format="f32")
    plain = embedder.embed(["what is the cat"]).vectors
    np.testing.assert_array_equal(embedder.embed(["the cat"], kind="query").vectors, plain)
    np.testing.assert_array_equal(embedder.embed(["what is the cat"], kind="document").vectors, plain)
    with pytest.raises(InvalidParameterError, match=r"kind of text is 'title'; this model knows query"):
        embedder.embed(["the cat"], kind="title")


def test_a_default_prompt_and_small_letters_are_honoured(tmp_path: Path) -> None:
    files = sentence_files()
    files["config_sentence_transformers.json"] = {"prompts": {"any": "What is "}, "default_prompt_name": "any"}
    files["sentence_bert_config.json"] = {"max_seq_length": 30, "do_lower_case": True}
    model = EmbeddingModel(encoder_checkpoint("bert", tmp_path, sentence=files))
    assert model.sentence.prepared("THE cat", None) == "what is the cat"
    plain = model.embed([model.encoder.encode("what is the cat").token_ids]).vectors
    np.testing.assert_array_equal(model.embed(["THE cat"]).vectors, plain)


def test_a_default_prompt_that_is_not_there_fails_the_load(tmp_path: Path) -> None:
    files = sentence_files() | {"config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": "query"}}
    with pytest.raises(CheckpointError, match="default_prompt_name is 'query'"):
        EmbeddingModel(encoder_checkpoint("bert", tmp_path, sentence=files))


def test_a_model_without_prompts_takes_any_text_as_it_is(embedder: NativeEmbedder) -> None:
    query = embedder.embed(["the cat"], kind="query").vectors
    np.testing.assert_array_equal(query, embedder.embed(["the cat"]).vectors)


def test_the_published_length_holds_unless_another_is_set(tmp_path: Path) -> None:
    path = encoder_checkpoint("bert", tmp_path, sentence=sentence_files(max_length=20))
    loaded = load_model(path, cache_dir=tmp_path)
    assert build_encoder(loaded, EncoderSettings(), CrushSettings()).max_length == 20
    assert build_encoder(loaded, EncoderSettings(max_length=40), CrushSettings()).max_length == 40
    with pytest.raises(ConfigError, match=r"encoders.max_length is 49; this model takes 48"):
        build_encoder(loaded, EncoderSettings(max_length=49), CrushSettings())


def test_many_texts_take_several_calls(tmp_path: Path) -> None:
    settings = EncoderSettings(max_num_batched_tokens=16)
    small = NativeEmbedder("tiny", tiny_encoder(tmp_path, settings=settings))
    texts = ["the cat sat on the mat"] * 5 + ["rain", "dog"]
    wide = NativeEmbedder("tiny", tiny_encoder(tmp_path))
    np.testing.assert_array_equal(small.embed(texts).vectors, wide.embed(texts).vectors)


def test_a_call_takes_as_many_texts_as_fit_and_at_least_one() -> None:
    texts = encoded((1, 4), (1, 4), (1, 4))
    assert take_batch(texts, 8, 100) == 2
    assert take_batch(texts, 3, 100) == 1
    assert take_batch(texts, 100, 2) == 2
    assert take_batch(texts, 100, 100) == 3


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_any_decoder_can_be_an_embedding_model(pooling: str, tmp_path: Path) -> None:
    path = tiny_checkpoint("qwen3", tmp_path)
    model = EmbeddingModel(path, pooling=pooling, weight_format="f32")  # type: ignore[arg-type]
    vectors = model.embed(["the rain", "a lot"]).vectors
    assert vectors.shape == (2, 72)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.embed(["a lot"]).vectors[0], vectors[1])
    assert len(model.loaded.compiled.program.caches) == 1  # whole texts: no layer needs what another one kept
    again = load_model(path, cache_dir=model.loaded.packed.path.parent, weight_format="f32")
    assert again.compiled.readout.task == "generate"  # and the same files still generate


def test_a_model_that_generates_is_refused_with_the_remedy(tmp_path: Path) -> None:
    loaded = load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path)
    with pytest.raises(UnsupportedModelError, match="llama generates text; load it with a pooling"):
        build_encoder(loaded, EncoderSettings(), CrushSettings())


def test_a_cross_encoder_reads_pairs_and_gives_numbers_between_0_and_1(tmp_path: Path) -> None:
    reranker = CrossEncoderReranker("tiny", tiny_encoder(tmp_path, **RERANKER))
    documents = ["the cat sat", "dog in the rain", "the cat sat " * 30]
    done = reranker.score("what is a cat", documents)
    assert all(0 < score < 1 for score in done.scores)
    assert len(set(done.scores)) == 3
    assert done.scores[:1] == reranker.score("what is a cat", documents[:1]).scores
    assert reranker.score("the cat sat", ["what is a cat"]).scores != done.scores[:1]  # segments differ
    with pytest.raises(ContextLengthError, match=r"documents\[2\] has"):
        reranker.score("what is a cat", documents, truncate=False)


def test_an_embedding_model_ranks_by_cosine_and_says_so(embedder: NativeEmbedder) -> None:
    reranker = CosineReranker(embedder)
    done = reranker.score("the cat sat", ["dog in the rain", "the cat sat"])
    assert reranker.method == "cosine"
    assert done.scores[1] == pytest.approx(1, abs=1e-6)
    assert done.scores[0] < done.scores[1]


def test_each_kind_of_model_is_taken_for_what_it_is(tmp_path: Path) -> None:
    labels = {"0": "no", "1": "yes"}
    classifier = tiny_encoder(tmp_path, architectures=["BertForSequenceClassification"], id2label=labels)
    with pytest.raises(UnsupportedModelError, match="2 labels; a reranker classifies with one label"):
        CrossEncoderReranker("tiny", classifier)
    with pytest.raises(UnsupportedModelError, match="tiny gives labels of texts, no embeddings"):
        NativeEmbedder("tiny", classifier)


def test_documents_are_ranked_best_first(tmp_path: Path) -> None:
    path = encoder_checkpoint("bert", tmp_path, sentence=sentence_files())
    model = RerankModel(path)
    ranked = model.rank("the cat sat", ["dog in the rain", "the cat sat", "rain"], top=2)
    assert (ranked[0].index, ranked[0].text, len(ranked)) == (1, "the cat sat", 2)
    assert ranked[0].score > ranked[1].score
    assert model.method == "cosine"


def test_sentence_files_are_kept_in_the_packed_file(tmp_path: Path) -> None:
    loaded = loaded_encoder(tmp_path)
    assert loaded.compiled.sentence == SentenceConfig("mean", normalize=True)
    assert load_model(loaded.packed.path, cache_dir=tmp_path).compiled.sentence == SentenceConfig("mean")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (sentence_files(mode="max_tokens"), "pooling max_tokens; this engine runs one of cls, mean, lasttoken"),
        ({"modules.json": [{"type": "a.Dense", "path": "2_Dense"}]}, "a Dense module; this engine runs Transformer"),
    ],
)
def test_modules_that_are_not_run_fail_the_load(files: dict, message: str, tmp_path: Path) -> None:
    path = encoder_checkpoint("bert", tmp_path, sentence=files)
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(path, cache_dir=tmp_path)
