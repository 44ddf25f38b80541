"""`glm embed` and `glm rerank`, and `glm serve` of a model that only embeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openai
import pytest
from typer.testing import CliRunner

from glm_crush import EmbeddingModel
from glm_crush.cli.main import app
from tests.cli.test_serve import serving
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files

pytestmark = pytest.mark.requirement("O1")


@pytest.fixture
def tiny_embedder(tmp_path: Path) -> Path:
    return encoder_checkpoint("bert", tmp_path, sentence=sentence_files())


def printed(*arguments: str, stdin: str | None = None) -> str:
    done = CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_embed_prints_one_array_a_line(tiny_embedder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("rain\n\na dog\n")
    lines = printed("embed", "the cat", "-m", str(tiny_embedder), "-f", str(tmp_path / "texts")).splitlines()
    wanted = EmbeddingModel(tiny_embedder).embed(["the cat", "rain", "a dog"]).vectors
    np.testing.assert_allclose([json.loads(line) for line in lines], wanted, atol=1e-8)


def test_embed_as_json_says_which_model_read_how_many_tokens(tiny_embedder: Path) -> None:
    reply = json.loads(printed("embed", "-m", str(tiny_embedder), "--json", "--dimensions", "3", "the cat"))
    assert (reply["model"], reply["num_tokens"], len(reply["embeddings"][0])) == (str(tiny_embedder), 4, 3)


def test_embed_reads_standard_input_and_pools_a_decoder(tmp_path: Path) -> None:
    llama = str(tiny_checkpoint("llama", tmp_path))
    out = printed("embed", "-m", llama, "--pooling", "last", "-f", "-", stdin="hello\n")
    assert len(json.loads(out)) == 72


@pytest.mark.parametrize("verb", ["embed", "rerank"])
def test_nothing_to_read_is_misuse(verb: str) -> None:
    arguments = [verb] if verb == "embed" else [verb, "query"]
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_rerank_prints_the_best_first(tiny_embedder: Path) -> None:
    documents = ("dog in the rain", "the cat sat")
    lines = printed("rerank", "the cat sat", *documents, "-m", str(tiny_embedder)).splitlines()
    assert lines[0] == " 1.0000  the cat sat"
    assert lines[1].endswith("  dog in the rain")
    reply = json.loads(printed("rerank", "the cat sat", *documents, "-m", str(tiny_embedder), "--json", "-n", "1"))
    assert reply["method"] == "cosine"
    assert [result["index"] for result in reply["results"]] == [1]


def test_a_model_that_only_embeds_is_served_alone(tiny_embedder: Path) -> None:
    with serving(str(tiny_embedder), "--name", "tiny") as (_, url, lines):
        assert f"curl {url}/v1/embeddings" in "".join(lines)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
            assert len(api.embeddings.create(model="tiny", input="the cat").data[0].embedding) == 72
            with pytest.raises(openai.NotFoundError):
                api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


def test_an_embedding_model_is_served_beside_a_chat_model(tiny_embedder: Path, tiny_llama: Path) -> None:
    arguments = (str(tiny_llama), "--embedding-model", str(tiny_embedder), "--threads", "1")
    with serving(*arguments) as (_, url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as api:
        assert [card.id for card in api.models.list()] == [str(tiny_llama), str(tiny_embedder)]
        assert len(api.embeddings.create(model="default", input="the cat").data[0].embedding) == 72
        assert api.completions.create(model=str(tiny_llama), prompt="a", max_tokens=1).usage.completion_tokens == 1  # type: ignore[union-attr]


def test_a_model_that_only_embeds_is_not_run(tiny_embedder: Path) -> None:
    from glm_crush import LLM
    from glm_crush.errors import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match=r"family bert\) generates no text; `glm embed`"):
        LLM(tiny_embedder)
