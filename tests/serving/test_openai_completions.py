"""Text completions and models through the real OpenAI client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

pytestmark = pytest.mark.requirement("S1")

Start = Callable[..., Any]


def post(server: Any, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/completions", json={"prompt": "ab", **body}, timeout=20)


def upper_engine(scripted_engine: Any) -> Any:
    """Completes a prompt with itself in capitals."""
    return scripted_engine(script=str.upper)


def test_a_text_prompt_is_completed(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(upper_engine(scripted_engine))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        reply = api.completions.create(model="scripted", prompt="ab")
        streamed = list(api.completions.create(model="scripted", prompt="ab", stream=True))
    assert reply.object == "text_completion"
    assert reply.choices[0].text == "AB"
    assert reply.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].text for chunk in streamed) == "AB"
    assert streamed[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["AB"]),
        (["ab", "c"], ["AB", "C"]),
        ([97, 98], ["AB"]),
        ([[97], [98, 99]], ["A", "BC"]),
    ],
)
def test_prompts_may_be_text_or_token_ids_one_or_many(
    start_server: Start, scripted_engine: Any, prompt: Any, texts: list[str]
) -> None:
    choices = post(start_server(upper_engine(scripted_engine)), prompt=prompt).json()["choices"]
    assert [choice["text"] for choice in choices] == texts
    assert [choice["index"] for choice in choices] == list(range(len(texts)))


def test_several_prompts_with_n_number_their_choices_in_order(start_server: Start, scripted_engine: Any) -> None:
    reply = post(start_server(upper_engine(scripted_engine)), prompt=["ab", "c"], n=2).json()
    assert [(choice["index"], choice["text"]) for choice in reply["choices"]] == [
        (0, "AB"),
        (1, "AB"),
        (2, "C"),
        (3, "C"),
    ]
    assert reply["usage"]["prompt_tokens"] == 3
    assert reply["usage"]["completion_tokens"] == 6


def test_several_prompts_stream_at_the_same_time(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(upper_engine(scripted_engine))
    texts = {0: "", 1: ""}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        for chunk in api.completions.create(model="scripted", prompt=["abc", "de"], stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "ABC", 1: "DE"}


def test_the_reply_has_16_tokens_unless_told_otherwise(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(scripted_engine(script=lambda prompt: "x" * 40))
    reply = post(server).json()
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("x" * 16, "length")


def test_echo_puts_the_prompt_before_the_reply_whole_and_streamed(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(upper_engine(scripted_engine))
    assert post(server, echo=True).json()["choices"][0]["text"] == "abAB"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        chunks = list(api.completions.create(model="scripted", prompt="ab", echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abAB"


def test_logprobs_are_in_the_shape_of_completions(start_server: Start, scripted_engine: Any) -> None:
    reply = post(start_server(upper_engine(scripted_engine)), logprobs=1).json()
    assert reply["choices"][0]["logprobs"] == {
        "tokens": ["A", "B"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{"A": -1.0}, {"A": -0.5, "B": -1.0}],
        "text_offset": [0, 1],
    }


def test_echo_with_logprobs_scores_the_prompt_too_whole_and_streamed(start_server: Start, scripted_engine: Any) -> None:
    server = start_server(upper_engine(scripted_engine))
    expected = {
        "tokens": ["a", "b", "A", "B"],
        "token_logprobs": [None, -2.0, -1.0, -1.0],
        "top_logprobs": [None, {"b": -2.0}, {"A": -1.0}, {"B": -1.0}],
        "text_offset": [0, 1, 2, 3],
    }
    assert post(server, echo=True, logprobs=0).json()["choices"][0]["logprobs"] == expected
    streamed: dict[str, list[Any]] = {name: [] for name in expected}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        for chunk in api.completions.create(model="scripted", prompt="ab", echo=True, logprobs=0, stream=True):
            for name, values in chunk.choices[0].logprobs.model_dump().items():
                streamed[name] += values
    assert streamed == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [256]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"best_of": 3, "use_beam_search": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "stream": True}, "max_tokens"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"preset": "loud"}, "preset"),
        ({"beam_width": 3}, "beam_width"),
        ({"length_penalty": 0.5}, "length_penalty"),
        ({"use_beam_search": True, "beam_width": 2, "n": 3}, "n"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "preset": "chat"}, "preset"),
        ({"suffix": "end"}, "suffix"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"temperature": 2.1}, "temperature"),
        ({"logprobs": 21}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_honoured_is_a_400_that_names_it(start_server: Start, body: dict[str, Any], param: str) -> None:
    response = post(start_server(), **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_models_are_listed_and_found_by_name(start_server: Start) -> None:
    server = start_server()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as api:
        assert [model.id for model in api.models.list()] == ["scripted"]
        model = api.models.retrieve("scripted")
        assert (model.object, model.owned_by, model.created) == ("model", "glm-crush", 1_700_000_000)
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve("org/other")
