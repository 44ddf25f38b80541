"""The server over the real engine and a tiny model: text, sampling, logprobs, many clients, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from glm_crush.config import ApiSettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("S1")

Complete = Callable[..., Any]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    return load_model(tiny_checkpoint("llama", folder), cache_dir=folder / "packed", weight_format="f32")


@pytest.fixture
def api(loaded: Any, loopback_server: Any) -> Iterator[openai.OpenAI]:
    url, current = loopback_server
    settings = load_settings(flags={"crush.threads": 1, "crush.max_num_seqs": 4, "crush.max_queue_size": 8})
    model, engine = serve_loaded_model("tiny", loaded, settings)
    current.app = create_app([model], ApiSettings())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client
    engine.close()


def test_a_seeded_reply_is_the_same_alone_among_others_and_streamed(api: openai.OpenAI) -> None:
    def complete(seed: int) -> str:
        reply = api.completions.create(model="tiny", prompt="hello", max_tokens=6, seed=seed, temperature=1.0)
        return reply.choices[0].text

    alone = complete(3)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(complete, [1, 2, 3, 4, 5, 3]))
    chunks = api.completions.create(model="tiny", prompt="hello", max_tokens=6, seed=3, temperature=1.0, stream=True)
    assert together[2] == together[5] == alone == "".join(chunk.choices[0].text for chunk in chunks)


def test_usage_counts_what_was_read_and_written(api: openai.OpenAI) -> None:
    ids = [1, 2, 3]
    reply = api.completions.create(
        model="tiny", prompt=ids, max_tokens=5, temperature=0, n=2, extra_body={"ignore_eos": True}
    )
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 10)  # type: ignore[union-attr]
    assert [choice.finish_reason for choice in reply.choices] == ["length", "length"]
    assert reply.choices[0].text == reply.choices[1].text


def test_logprobs_are_sorted_and_contain_the_greedy_token(api: openai.OpenAI) -> None:
    reply = api.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_completion_tokens=3,
        temperature=0,
        logprobs=True,
        top_logprobs=4,
    )
    entries = reply.choices[0].logprobs.content  # type: ignore[union-attr]
    assert entries
    for entry in entries:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert entry.logprob == values[0]


def test_a_stop_string_ends_the_reply_and_is_not_part_of_it(api: openai.OpenAI) -> None:
    def complete(**options: Any) -> Any:
        extra = {"ignore_eos": True}
        return api.completions.create(
            model="tiny", prompt="hello", max_tokens=12, temperature=0, extra_body=extra, **options
        ).choices[0]

    whole = complete().text
    stop = whole[3:5]
    stopped = complete(stop=stop)
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"


def test_echo_scores_the_prompt(api: openai.OpenAI) -> None:
    reply = api.completions.create(model="tiny", prompt=[1, 2, 3], max_tokens=1, temperature=0, echo=True, logprobs=1)
    scores = reply.choices[0].logprobs
    assert scores is not None
    assert scores.token_logprobs is not None
    assert len(scores.token_logprobs) == 4
    assert scores.token_logprobs[0] is None
    assert all(score < 0 for score in scores.token_logprobs[1:])  # type: ignore[operator]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_a_400_streamed_or_not(api: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.completions.create(model="tiny", prompt=[1] * 100, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_request_beyond_the_queue_is_refused_with_503_and_goes_through_later(api: openai.OpenAI) -> None:
    many = api.completions.create(
        model="tiny", prompt=[1, 2], n=128, max_tokens=40, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(many))  # 4 replies run, over a hundred wait
    with pytest.raises(openai.InternalServerError) as caught:
        api.completions.create(model="tiny", prompt=[1, 2], max_tokens=4)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"].isdigit()
    many.close()
    patient = api.with_options(max_retries=20)
    assert patient.completions.create(model="tiny", prompt=[1, 2], max_tokens=4).usage.completion_tokens > 0  # type: ignore[union-attr]


@pytest.mark.requirement("E7")
@pytest.mark.parametrize("engine_process", [True, False])
def test_a_draft_model_guesses_on_a_server_too(loopback_server: Any, tmp_path: Path, engine_process: bool) -> None:
    """Here the model guesses for itself, so that every guess is right."""
    path = tiny_checkpoint("llama", tmp_path)
    flags = {"crush.draft_model": str(path), "api.engine_process": engine_process, "store.home": tmp_path}
    settings = load_settings(flags={"crush.threads": 1, "crush.kv_cache_tokens": 256, **flags})
    loaded = load_model(path, cache_dir=tmp_path / "packed")
    model, engine = serve_loaded_model("tiny", loaded, settings)
    url, current = loopback_server
    current.app = create_app([model], ApiSettings())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = client.completions.create(
            model="tiny", prompt=[1, 2, 3], max_tokens=20, seed=4, extra_body={"ignore_eos": True}
        )
    engine.close()
    details = reply.usage.completion_tokens_details  # type: ignore[union-attr]
    assert 0 < details.accepted_prediction_tokens < 20
    assert details.rejected_prediction_tokens == 0
