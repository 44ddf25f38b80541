"""Whatever a client sends is a typed request or a RequestError: never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.errors import InvalidParameterError, RequestError
from glm_crush.serving.json_http import parse_request
from glm_crush.serving.openai.parameters import chat_sampling_params, completion_sampling_params
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.types import SamplingParams

pytestmark = pytest.mark.requirement("S1")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def bodies(fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(fields)) | st.text(max_size=5), VALUES, max_size=5)


def check(request_class: Any, to_params: Any, body: bytes) -> None:
    try:
        params = to_params(parse_request(request_class, body), SamplingParams())
    except RequestError:
        return
    assert isinstance(params, SamplingParams)


@given(bodies(ChatRequest.model_fields))
def test_any_chat_body_is_a_request_or_a_request_error(body: dict[str, Any]) -> None:
    check(ChatRequest, chat_sampling_params, json.dumps({"messages": [{"role": "user"}], **body}).encode())


@given(bodies(CompletionRequest.model_fields))
def test_any_completion_body_is_a_request_or_a_request_error(body: dict[str, Any]) -> None:
    check(CompletionRequest, completion_sampling_params, json.dumps({"prompt": "x", **body}).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_request_error(body: bytes) -> None:
    check(ChatRequest, chat_sampling_params, body)


@pytest.mark.parametrize(
    "body",
    [
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"messages": [{"role": "user", "content": "x"}], "seed": ' + "9" * 400 + "}",
        '{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        '{"messages": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999999999999999999": 1e30}}',
    ],
)
def test_nasty_values_are_request_errors(body: str) -> None:
    with pytest.raises(RequestError):
        chat_sampling_params(parse_request(ChatRequest, body.encode()), SamplingParams())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ],
)
def test_a_part_that_is_no_text_is_refused_as_such(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]
    with pytest.raises(InvalidParameterError) as caught:
        parse_request(ChatRequest, json.dumps({"messages": messages}).encode())
    assert str(caught.value) == (
        f"messages[0].content[1] is a part of type {part['type']!r}; "
        "this model reads only text: send parts of type 'text'"
    )
    assert caught.value.parameter == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("max_token", "did you mean max_tokens?"), ("temprature", "did you mean temperature?"), ("zz", "remove it")],
)
def test_a_misspelt_field_is_answered_with_the_nearest(name: str, remedy: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        parse_request(CompletionRequest, json.dumps({"prompt": "x", name: 1}).encode())
    assert str(caught.value) == f"{name} is not a parameter of this endpoint; {remedy}"
