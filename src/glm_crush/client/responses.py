"""Responses: replies that the server keeps, chained, in the background if wanted.

Above: the two clients. Below: options and results.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from glm_crush.client.call import Call, Flow, PageCall, Pause, StreamCall, given, place, read_as
from glm_crush.client.chat_options import Tool, checked_options
from glm_crush.client.function_tools import function_tool
from glm_crush.client.response import Item, Response, ResponseEvent, ResponseReader
from glm_crush.client.result import Deleted, Result
from glm_crush.errors import DeadlineError, InvalidParameterError

__all__ = [
    "PromptOptions",
    "ResponseOptions",
    "cancel",
    "count_input",
    "delete",
    "follow",
    "get",
    "input_items",
    "respond",
    "stream_respond",
    "wait",
]


class PromptOptions(TypedDict, total=False):
    """What decides on the prompt of a response. `json_schema` holds its text to a schema; `tools` may be functions."""

    model: str | None
    instructions: str | None
    previous_response_id: str | None
    reasoning: Mapping[str, Any] | None
    json_schema: Mapping[str, Any] | None
    text: Mapping[str, Any] | None
    tools: Sequence[Tool] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    truncation: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    extra: Mapping[str, Any] | None


class ResponseOptions(PromptOptions, total=False):
    """Options of a response."""

    store: bool | None
    background: bool | None
    metadata: Mapping[str, str] | None
    include: Sequence[str] | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    top_logprobs: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    max_tool_calls: int | None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None


def respond(input: str | Sequence[Item], **options: Unpack[ResponseOptions]) -> Call[Response]:  # noqa: A002 - the API's name
    """Answer a text or items; the server keeps both, so that `previous_response_id` goes on from here.

        first = client.respond("Why is the sky blue?")
        client.respond("And at sunset?", previous_response_id=first.id).text

    With `background` the reply comes at once, and `responses.wait` has the answer.
    """
    body = _body(input, options)
    # One that is stored twice is there twice.
    repeatable = body.get("store") is False and not body.get("background")
    return Call(method="POST", path="/v1/responses", body=body, parse=read_as(Response), repeatable=repeatable)


def stream_respond(
    input: str | Sequence[Item],  # noqa: A002 - the API's name
    **options: Unpack[ResponseOptions],
) -> StreamCall[ResponseEvent, Response]:
    """Answer piece by piece; see `Stream`. With `background` the response goes on when the stream is left."""
    body = {**_body(input, options), "stream": True}
    repeatable = body.get("store") is False and not body.get("background")
    return StreamCall(method="POST", path="/v1/responses", body=body, reader=ResponseReader, repeatable=repeatable)


def count_input(input: str | Sequence[Item], **options: Unpack[PromptOptions]) -> Call[int]:  # noqa: A002 - the API's name
    """How many tokens the prompt of such a response would have."""
    read = read_as(_InputTokens)
    body = _body(input, options, PromptOptions)
    return Call(
        method="POST", path="/v1/responses/input_tokens", body=body, parse=lambda answer: read(answer).input_tokens
    )


class _InputTokens(Result, frozen=True):
    input_tokens: int


def get(response_id: str) -> Call[Response]:
    """A stored response."""
    return Call(method="GET", path=place("v1", "responses", response_id), parse=read_as(Response))


def follow(response_id: str, *, after: int | None = None) -> StreamCall[ResponseEvent, Response]:
    """The events of a response that streams in the background; `after` is the number of the last one that was seen."""
    query = {"stream": "true", **given(starting_after=after)}
    return StreamCall(method="GET", path=place("v1", "responses", response_id), query=query, reader=ResponseReader)


def wait(response_id: str, *, poll_seconds: float = 0.5, timeout_seconds: float | None = None) -> Flow[Response]:
    """Wait until a response in the background has ended, one way or another.

    Raises:
        DeadlineError: it had not after `timeout_seconds`; it goes on.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        response: Response = yield get(response_id)
        if not response.is_working:
            return response
        if until is not None and time.monotonic() >= until:
            raise DeadlineError(
                f"{response_id} is {response.status} after {timeout_seconds:g} s; wait again, or cancel it"
            )
        yield Pause(poll_seconds)


def cancel(response_id: str) -> Call[Response]:
    """Stop a response in the background."""
    return Call(method="POST", path=place("v1", "responses", response_id, "cancel"), parse=read_as(Response))


def delete(response_id: str) -> Call[Deleted]:
    """Forget a response."""
    return Call(method="DELETE", path=place("v1", "responses", response_id), parse=read_as(Deleted))


def input_items(response_id: str, *, page_size: int | None = None, order: str | None = None) -> PageCall[Item]:
    """Everything a response was made from, earlier turns too; newest first unless `order` is "asc"."""
    path = place("v1", "responses", response_id, "input_items")
    return PageCall(path, dict[str, Any], given(limit=page_size, order=order))


def _body(input_: str | Sequence[Item], options: Mapping[str, Any], known: type = ResponseOptions) -> dict[str, Any]:
    fields = checked_options(options, known)
    schema = fields.pop("json_schema", None)
    if schema is not None:
        if "text" in fields:
            raise InvalidParameterError("json_schema and text are both given; give one", parameter="json_schema")
        fields["text"] = {"format": {"type": "json_schema", "name": "reply", "schema": schema}}
    if "tools" in fields:
        fields["tools"] = [_flat(function_tool(tool)) if callable(tool) else tool for tool in fields["tools"]]
    return {"input": input_ if isinstance(input_, str) else list(input_), **fields}


def _flat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """In responses a tool's fields are not in an object of their own."""
    return {"type": "function", **tool["function"]}
