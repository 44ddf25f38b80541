"""The `openai` package against the server: chat, completions, embeddings, models, errors."""

from __future__ import annotations

import asyncio
import base64
import math
import struct

import httpx2
import openai
from pydantic import BaseModel

from checks import Checks, target

TARGET = target()
MODEL, GLM = TARGET["model"], TARGET["glm_model"]
HI = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lisbon", "Porto"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
client = openai.OpenAI(base_url=f"{TARGET['url']}/v1", api_key="none", max_retries=0)
glm = openai.OpenAI(base_url=f"{TARGET['glm_url']}/v1", api_key="none", max_retries=0)
# A random model may think for ever: where its thoughts are not what is looked at, it has none.
AT_ONCE = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
checks = Checks()
check = checks.check


class Answer(BaseModel):
    """What structured replies are parsed into."""

    yes: bool


@check("`models.list` and `models.retrieve` agree")
def _() -> None:
    listed = {model.id: model for model in client.models.list()}
    assert MODEL in listed
    assert client.models.retrieve(MODEL).id == MODEL


@check("`chat.completions.create` answers with usage and a finish reason")
def _() -> None:
    reply = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=4, temperature=0)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 4
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 4
    assert reply._request_id


@check("a stream's chunks add up to the reply without stream, and the last one has the usage")
def _() -> None:
    arguments = {"model": MODEL, "messages": HI, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


@check("the stream helper `chat.completions.stream` accumulates the same message")
def _() -> None:
    with client.chat.completions.stream(model=MODEL, messages=HI, temperature=0, stop=["!", "."]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


@check("`n`, `seed`, `stop` and `logprobs` are honoured")
def _() -> None:
    arguments = {"model": MODEL, "messages": HI, "max_tokens": 6, "seed": 7, "temperature": 1.0}
    two = client.chat.completions.create(**arguments, n=2)
    again = client.chat.completions.create(**arguments, n=2)
    assert [c.message.content for c in two.choices] == [c.message.content for c in again.choices]
    scored = client.chat.completions.create(**arguments, logprobs=True, top_logprobs=3)
    assert all(len(token.top_logprobs) == 3 for token in scored.choices[0].logprobs.content)
    stopped = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=40, temperature=0, stop=["!"])
    assert "!" not in stopped.choices[0].message.content
    assert stopped.choices[0].finish_reason == "stop"


@check("`logit_bias` forbids a token")
def _() -> None:
    arguments = {"model": MODEL, "prompt": "One two three", "max_tokens": 1, "temperature": 0}
    free = client.completions.create(**arguments)
    body = {"model": MODEL, "prompt": free.choices[0].text, "add_special_tokens": False}
    token = httpx2.post(f"{TARGET['url']}/tokenize", json=body).json()["tokens"][0]
    other = client.completions.create(**arguments, logit_bias={str(token): -100})
    assert other.choices[0].text != free.choices[0].text


@check("`chat.completions.parse` returns an object of the given class")
def _() -> None:
    parsed = client.chat.completions.parse(model=MODEL, messages=HI, response_format=Answer, max_tokens=60)
    assert isinstance(parsed.choices[0].message.parsed, Answer)


@check("a required tool is called with arguments of its schema, streamed or not")
def _() -> None:
    arguments = {
        "model": GLM,
        "messages": HI,
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_tokens": 400,
        **AT_ONCE,
    }
    whole = glm.chat.completions.create(**arguments, seed=1)
    call = whole.choices[0].message.tool_calls[0]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, "city" in call.function.arguments) == ("weather", True)
    with glm.chat.completions.stream(**arguments, seed=1) as stream:
        final = stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls[0].function
    assert (streamed.name, streamed.arguments) == ("weather", call.function.arguments)


@check("a conversation with a tool's result is accepted")
def _() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Porto"}'}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    reply = glm.chat.completions.create(model=GLM, messages=messages, tools=[WEATHER], max_tokens=4)
    assert reply.usage.completion_tokens > 0


@check("what a reasoning model thinks comes as `reasoning_content` and `reasoning`")
def _() -> None:
    reply = glm.chat.completions.create(model=GLM, messages=HI, max_tokens=8, seed=1, extra_body={"ignore_eos": True})
    message = reply.choices[0].message
    assert message.reasoning_content
    assert message.reasoning_content == message.reasoning


@check("`completions.create` takes several prompts, echo and logprobs, and streams")
def _() -> None:
    reply = client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=3, echo=True, logprobs=2)
    assert [choice.text[:3] for choice in reply.choices] == ["One", "Two"]
    assert len(reply.choices[0].logprobs.tokens) == len(reply.choices[0].logprobs.token_logprobs)
    chunks = list(client.completions.create(model=MODEL, prompt="One", max_tokens=5, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


@check("`embeddings.create` gives unit vectors, base64 (the client's default) and floats alike")
def _() -> None:
    model = TARGET["embedding_model"]
    packed = client.embeddings.create(model=model, input=["a cat", "a dog"])
    floats = client.embeddings.create(model=model, input=["a cat", "a dog"], encoding_format="float")
    raw = client.embeddings.with_raw_response.create(model=model, input="a cat", encoding_format="base64")
    text = raw.http_response.json()["data"][0]["embedding"]
    assert len(struct.unpack(f"<{len(packed.data[0].embedding)}f", base64.b64decode(text))) == len(
        packed.data[0].embedding
    )
    assert math.isclose(math.hypot(*floats.data[0].embedding), 1.0, abs_tol=1e-3)
    assert max(abs(a - b) for a, b in zip(packed.data[1].embedding, floats.data[1].embedding, strict=True)) < 1e-6


@check("errors are the client's typed exceptions and name the parameter")
def _() -> None:
    for arguments, kind, parameter in (
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"temperature": -1.0}, openai.BadRequestError, "temperature"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"extra_body": {"colour": 1}}, openai.BadRequestError, "colour"),
    ):
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": HI, "max_tokens": 1, **arguments})
        except kind as error:
            assert error.param == parameter, error.param
        else:
            raise AssertionError(f"{arguments} was accepted")


@check("the asynchronous client runs requests together, and a cancelled stream is let go")
def _() -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{TARGET['url']}/v1", api_key="none") as many:
            replies = await asyncio.gather(
                *(many.chat.completions.create(model=MODEL, messages=HI, max_tokens=3, temperature=0) for _ in range(8))
            )
            assert [reply.usage.completion_tokens for reply in replies] == [3] * 8
            stream = await many.chat.completions.create(model=MODEL, messages=HI, max_tokens=500, stream=True)
            async for _ in stream:
                await stream.close()
                break

    asyncio.run(work())


checks.run()
