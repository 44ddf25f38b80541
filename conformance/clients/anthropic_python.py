"""The `anthropic` package against `/v1/messages`."""

from __future__ import annotations

import anthropic

from checks import Checks, target

TARGET = target()
MODEL, GLM = TARGET["model"], TARGET["glm_model"]
client = anthropic.Anthropic(base_url=TARGET["url"], api_key="none", max_retries=0)
glm = anthropic.Anthropic(base_url=TARGET["glm_url"], api_key="none", max_retries=0)
HI = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Lisbon", "Porto"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
checks = Checks()
check = checks.check


@check("`messages.create` answers with text, a stop reason and usage")
def _() -> None:
    reply = client.messages.create(model=MODEL, max_tokens=3, messages=HI, extra_body={"temperature": 0})
    assert (reply.type, reply.role, reply.content[0].type) == ("message", "assistant", "text")
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 3)


@check("`messages.stream` accumulates the message that `messages.create` gives")
def _() -> None:
    arguments = {"model": MODEL, "max_tokens": 12, "messages": HI, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**arguments)
    with client.messages.stream(**arguments) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens


@check("raw events come in the documented order")
def _() -> None:
    events = [event.type for event in client.messages.create(model=MODEL, max_tokens=4, messages=HI, stream=True)]
    events = [event for event in events if event != "ping"]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(events[2:-3]) == {"content_block_delta"}


@check("`stop_sequences` stop and are named")
def _() -> None:
    reply = client.messages.create(
        model=MODEL, max_tokens=60, messages=HI, stop_sequences=["!", "."], extra_body={"temperature": 0}
    )
    assert reply.stop_reason == "stop_sequence"
    assert reply.stop_sequence in ("!", ".")


@check("`messages.count_tokens` counts what `messages.create` reads")
def _() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=HI)
    reply = client.messages.create(model=MODEL, max_tokens=1, messages=HI)
    read = reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == read


@check("a tool that must be used is used, with input of its schema, streamed or not")
def _() -> None:
    arguments = {
        "model": GLM, "max_tokens": 400, "messages": HI, "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather"}, "thinking": {"type": "disabled"},
    }  # fmt: skip
    reply = glm.messages.create(**arguments)
    use = next(block for block in reply.content if block.type == "tool_use")
    assert reply.stop_reason == "tool_use"
    assert use.input["city"] in ("Lisbon", "Porto")
    with glm.messages.stream(**arguments) as stream:
        final = stream.get_final_message()
    assert next(block for block in final.content if block.type == "tool_use").name == "weather"


@check("a conversation with a tool's result is accepted")
def _() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Porto"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
    messages = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    reply = glm.messages.create(model=GLM, max_tokens=3, messages=messages, tools=[WEATHER])
    assert reply.usage.output_tokens > 0


@check("thinking comes in blocks of its own, with a signature that is taken back")
def _() -> None:
    reply = glm.messages.create(model=GLM, max_tokens=1100, messages=HI, thinking={"type": "adaptive"})
    block = reply.content[0]
    assert (block.type, bool(block.signature)) == ("thinking", True)
    messages = [*HI, {"role": "assistant", "content": [block.model_dump(), {"type": "text", "text": "Hi"}]}, *HI]
    glm.messages.create(model=GLM, max_tokens=2, messages=messages)


@check("`models.list` reads the models")
def _() -> None:
    assert MODEL in {model.id for model in client.models.list()}


@check("errors are the client's typed exceptions")
def _() -> None:
    for arguments, kind in (
        ({"model": "nope"}, anthropic.NotFoundError),
        ({"extra_body": {"temperature": 9}}, anthropic.BadRequestError),
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"extra_body": {"colour": 1}}, anthropic.BadRequestError),
    ):
        try:
            client.messages.create(**{"model": MODEL, "max_tokens": 1, "messages": HI, **arguments})
        except kind as error:
            assert error.body["type"] == "error"
            assert error.request_id
        else:
            raise AssertionError(f"{arguments} was accepted")


checks.run()
