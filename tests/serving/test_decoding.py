"""Beams, best-of, presets and scored prompts over HTTP, with the real engine and a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E1", "S1")

Post = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tiny")
    path = tiny_checkpoint("llama", folder, max_position_embeddings=512)
    (path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 3, "repetition_penalty": 1.2}')
    return load_model(path, cache_dir=folder / "packed", weight_format="f32")


@pytest.fixture
def url(loaded: Any, loopback_server: Any) -> Iterator[str]:
    address, current = loopback_server
    settings = load_settings(flags={"crush.threads": 1, "crush.max_num_seqs": 8, "crush.kv_cache_tokens": 4096})
    model, engine = serve_loaded_model("tiny", loaded, settings)
    current.app = create_app([model], ApiSettings())
    yield f"{address}/v1"
    engine.close()


def complete(url: str, **body: Any) -> Any:
    body = {"prompt": "hello", "max_tokens": 6, "ignore_eos": True, **body}
    response = httpx2.post(f"{url}/completions", json=body, timeout=20)
    assert response.status_code == 200, response.text
    return response.json()


def test_beam_search_returns_the_n_best_with_scores_in_both_routes(url: str) -> None:
    beams = {"use_beam_search": True, "beam_width": 4, "length_penalty": 0.5, "early_stopping": True}
    choices = complete(url, n=3, **beams)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    scores = [choice["score"] for choice in choices]
    assert scores == sorted(scores, reverse=True)
    assert len({choice["text"] for choice in choices}) == 3
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as api:
        messages: Any = [{"role": "user", "content": "hello"}]
        reply = api.chat.completions.create(model="tiny", messages=messages, max_tokens=5, n=2, extra_body=beams)
        chunks = list(
            api.chat.completions.create(model="tiny", messages=messages, max_tokens=5, stream=True, extra_body=beams)
        )
    assert len(reply.choices) == 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply.choices[0].message.content


def test_without_a_beam_width_there_are_as_many_beams_as_replies(url: str) -> None:
    assert (
        complete(url, n=1, use_beam_search=True)["choices"][0]["text"]
        == (complete(url, temperature=0, repetition_penalty=1)["choices"][0]["text"])
    )


def test_best_of_returns_the_likeliest_of_those_drawn_and_counts_them_all(url: str) -> None:
    drawn = complete(url, n=4, seed=1, logprobs=0)["choices"]
    means = [sum(choice["logprobs"]["token_logprobs"]) / 6 for choice in drawn]
    reply = complete(url, n=2, best_of=4, seed=1)
    ranked = sorted(range(4), key=lambda place: -means[place])[:2]
    assert [choice["text"] for choice in reply["choices"]] == [drawn[place]["text"] for place in ranked]
    assert [choice["score"] for choice in reply["choices"]] == pytest.approx([means[place] for place in ranked])
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["choices"][0]["logprobs"] is None
    assert reply["usage"]["completion_tokens"] == 24


def test_a_preset_replaces_what_the_publisher_recommends_and_a_parameter_what_the_preset_says(url: str) -> None:
    greedy = complete(url, temperature=0, top_k=0, repetition_penalty=1)["choices"][0]["text"]
    assert complete(url, preset="code")["choices"][0]["text"] == greedy
    drawn = [
        complete(url, seed=3, **given)["choices"][0]["text"]
        for given in (
            {"preset": "creative"},
            {"temperature": 1.0, "top_k": 50, "repetition_penalty": 1},
            {"preset": "precise", "temperature": 1.0, "top_k": 50},
        )
    ]
    assert len(set(drawn)) == 1
    assert complete(url, seed=3, preset="default")["choices"] == complete(url, seed=3)["choices"]


def test_prompt_logprobs_come_in_the_shape_of_vllm_in_both_routes(url: str) -> None:
    [choice] = complete(url, prompt=[5, 6, 7], prompt_logprobs=2)["choices"]
    assert choice["logprobs"] is None
    scored = choice["prompt_logprobs"]
    assert scored[0] is None
    assert [next(iter(entry)) for entry in scored[1:]] == ["6", "7"]
    for entry in scored[1:]:
        assert sorted(token["rank"] for token in entry.values() if token["rank"]) == [1, 2]
        assert all(set(token) == {"logprob", "rank", "decoded_token"} for token in entry.values())
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "prompt_logprobs": 0}
    reply = httpx2.post(f"{url}/chat/completions", json=body, timeout=20).json()
    assert len(reply["prompt_logprobs"]) == reply["usage"]["prompt_tokens"]
    assert all(len(entry) == 1 for entry in reply["prompt_logprobs"][1:])


def test_no_tokens_and_echo_score_the_prompt_alone(url: str) -> None:
    with_reply = complete(url, prompt=[5, 6, 7], echo=True, logprobs=1)["choices"][0]
    reply = complete(url, prompt=[5, 6, 7], echo=True, logprobs=1, max_tokens=0)
    [choice] = reply["choices"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert choice["logprobs"][name] == with_reply["logprobs"][name][:3]
    assert with_reply["text"].startswith(choice["text"])
    assert (choice["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 0)


def test_beams_that_do_not_fit_are_a_400_with_the_numbers(url: str) -> None:
    body = {"prompt": "hello", "max_tokens": 500, "use_beam_search": True, "n": 9}
    response = httpx2.post(f"{url}/completions", json=body, timeout=20)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "beam_width"
