"""The turn that every protocol builds on, with no protocol around it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from glm_crush.chat.reply_format import ReplyWish
from glm_crush.chat.reply_part import ReplyPart, merge_parts
from glm_crush.chat.tool_schema import tool_schemas
from glm_crush.errors import ContextLengthError, InvalidParameterError
from glm_crush.serving.chat_turn import ChatTurn, ParameterNames, TurnDelta, TurnRequest, prepare_turn
from glm_crush.serving.served_model import ServedModel
from glm_crush.types import Message, SamplingParams
from tests.serving.scripted import ByteCodec, ScriptedEngine
from tests.serving.test_tools_and_formats import FLAG

HI: list[Message] = [{"role": "user", "content": "Hi"}]
PARAMS = SamplingParams(max_tokens=150, seed=3)


def scripted(**options: Any) -> ServedModel:
    return ServedModel(
        name="scripted", engine=ScriptedEngine(**options), codec=ByteCodec(), context_length=1000, vocab_size=256
    )


@pytest.fixture
def glm(glm_models: list[ServedModel]) -> ServedModel:
    """A tiny random model that writes calls as GLM-4.7 does."""
    return glm_models[1]


def prepared(model: ServedModel, **options: Any) -> ChatTurn:
    request = TurnRequest(**{"messages": HI, "params": PARAMS, **options})
    return asyncio.run(prepare_turn(model, request))


async def all_deltas(turn: ChatTurn) -> list[TurnDelta]:
    return [delta async for delta in turn.deltas()]


def wish(*tools: Any, choice: str = "required") -> ReplyWish:
    return ReplyWish(tools=tools, schemas=tool_schemas(tools), choice=choice, parallel=False)


def test_parts_add_up_to_the_reply_and_the_last_says_why_it_ends() -> None:
    turn = prepared(scripted())
    deltas = asyncio.run(all_deltas(turn))
    assert merge_parts(part for delta in deltas for part in delta.parts) == [ReplyPart("content", "Hello")]
    assert [delta.finish_reason for delta in deltas] == [None, None, None, None, "stop"]
    assert (turn.usage.prompt_tokens, turn.usage.completion_tokens) == (18, 5)


def test_streamed_and_whole_a_turn_with_a_call_is_the_same(glm: ServedModel) -> None:
    options: dict[str, Any] = {"wish": wish(FLAG), "variables": {"enable_thinking": False}}
    whole = asyncio.run(prepared(glm, **options).result())
    [reply] = whole.replies
    [call] = reply.tool_calls
    turn = prepared(glm, **options)
    deltas = asyncio.run(all_deltas(turn))
    assert merge_parts(part for delta in deltas for part in delta.parts) == [
        ReplyPart("tool_name", "set_flag"),
        ReplyPart("tool_arguments", call.arguments),
    ]
    assert deltas[-1].finish_reason == reply.finish_reason == "tool_calls"
    assert deltas[-1].stats is not None
    untimed = {"cached_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    assert replace(turn.usage, **untimed) == replace(whole.usage, **untimed)


def test_reasoning_is_apart_and_counted_in_both_forms(glm: ServedModel) -> None:
    params = SamplingParams(max_tokens=20, seed=3, ignore_eos=True)
    whole = asyncio.run(prepared(glm, params=params).result())
    turn = prepared(glm, params=params)
    asyncio.run(all_deltas(turn))
    assert whole.replies[0].finish_reason == "length"
    assert whole.replies[0].content == ""
    assert whole.num_reasoning_tokens == turn.num_reasoning_tokens == 20


def test_each_reply_of_several_has_its_own_parts() -> None:
    params = SamplingParams(n=2, max_tokens=2)
    deltas = asyncio.run(all_deltas(prepared(scripted(), params=params)))
    for index in (0, 1):
        own = [delta for delta in deltas if delta.index == index]
        assert "".join(part.text for delta in own for part in delta.parts) == "He"
        assert own[-1].finish_reason == "length"


def test_a_turn_that_nobody_reads_on_is_aborted() -> None:
    engine = ScriptedEngine(hold_after=2)
    model = replace(scripted(), engine=engine)

    async def run() -> None:
        deltas = (await prepare_turn(model, TurnRequest(messages=HI, params=PARAMS))).deltas()
        await anext(deltas)
        await deltas.aclose()

    asyncio.run(run())
    assert engine.closed.is_set()


@pytest.mark.parametrize("whole", [True, False])
def test_a_refusal_names_what_the_protocol_calls_it(whole: bool) -> None:
    turn = prepared(scripted(context_length=5), names=ParameterNames(messages="contents"))
    with pytest.raises(ContextLengthError) as caught:
        asyncio.run(turn.result()) if whole else asyncio.run(all_deltas(turn))
    assert caught.value.parameter == "contents"


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"wish": wish(FLAG)}, "tools"),
        ({"variables": {"messages": []}, "names": ParameterNames(variables="options")}, "options"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_the_engine_sees_it(options: Any, parameter: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        prepared(scripted(), **options)
    assert caught.value.parameter == parameter
