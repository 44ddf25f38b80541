"""Tokens and prompts as the model would be given them, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.requirement("S1")
Start = Callable[..., Any]
HI = [{"role": "user", "content": "Hi"}]


def post(server: Any, path: str, body: object) -> Any:
    response = httpx2.post(f"{server.url}{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(server: Any, path: str, body: object) -> dict[str, Any]:
    response = httpx2.post(f"{server.url}{path}", json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_prompt_is_counted_and_taken_apart(start_server: Start) -> None:
    assert post(start_server(), "/tokenize", {"prompt": "Hé"}) == {
        "count": 3,
        "max_model_len": 1000,
        "tokens": [72, 195, 169],
        "token_strs": None,
    }


def test_on_request_each_token_is_spelt(start_server: Start) -> None:
    reply = post(start_server(), "/tokenize", {"prompt": "Hi", "return_token_strs": True})
    assert reply["token_strs"] == ["H", "i"]


def test_messages_are_rendered_by_the_chat_template(start_server: Start) -> None:
    server = start_server()
    whole = post(server, "/tokenize", {"messages": HI})
    assert bytes(whole["tokens"]) == b"user:Hi|assistant:"
    open_ended = {"messages": HI, "add_generation_prompt": False, "chat_template_kwargs": {"a": 1}}
    assert bytes(post(server, "/tokenize", open_ended)["tokens"]) == b"user:Hi|a=1|"


def test_tokens_become_text_again(start_server: Start) -> None:
    assert post(start_server(), "/detokenize", {"tokens": [72, 195, 169]}) == {"prompt": "Hé"}


def test_a_conversation_is_rendered_as_its_request_would_be(start_server: Start) -> None:
    reply = post(start_server(), "/v1/chat/completions/render", {"messages": HI, "temperature": 0.5, "max_tokens": 7})
    assert reply["prompt"] == "user:Hi|assistant:"
    assert bytes(reply["token_ids"]) == b"user:Hi|assistant:"
    assert (reply["sampling_params"]["temperature"], reply["sampling_params"]["max_tokens"]) == (0.5, 7)
    assert (reply["model"], reply["features"]) == ("scripted", None)


def test_prompts_are_rendered_each_for_itself(start_server: Start) -> None:
    reply = post(start_server(), "/v1/completions/render", {"prompt": ["a", "bc"]})
    assert [part["token_ids"] for part in reply] == [[97], [98, 99]]
    assert reply[0]["sampling_params"]["max_tokens"] == 16


def test_rendering_asks_nothing_of_the_engine(start_server: Start) -> None:
    server = start_server()
    post(server, "/v1/chat/completions/render", {"messages": HI})
    post(server, "/tokenize", {"prompt": "Hi"})
    assert server.engine.prompts == []


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": HI}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": HI, "add_special_tokens": True}, "add_special_tokens"),
        ({"messages": HI, "continue_final_message": True}, "continue_final_message"),
        ({"messages": HI, "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"prompt": "a", "max_tokens": 1}, "max_tokens"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(start_server: Start, body: dict[str, Any], parameter: str) -> None:
    assert refused(start_server(), "/tokenize", body)["param"] == parameter


def test_a_token_that_the_model_does_not_have_is_refused(start_server: Start) -> None:
    assert refused(start_server(), "/detokenize", {"tokens": [1, 256]})["param"] == "tokens"


def test_a_models_card_says_how_long_a_prompt_may_be_and_what_may_be_asked(start_server: Start) -> None:
    [card] = httpx2.get(f"{start_server().url}/v1/models").json()["data"]
    assert card["max_model_len"] == 1000
    assert card["capabilities"] == {
        "completion": True,
        "chat": True,
        "tools": False,
        "reasoning": False,
        "structured_outputs": False,
    }
