"""LlamaIndex's OpenAILike: chat, completion, streams, functions."""

from __future__ import annotations

import asyncio

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from checks import Checks, target

TARGET = target()
COMMON = {"api_key": "none", "context_window": 2048, "max_retries": 0, "temperature": 0.0}
MAIN = {**COMMON, "model": TARGET["model"], "api_base": f"{TARGET['url']}/v1"}
GLM = {**COMMON, "model": TARGET["glm_model"], "api_base": f"{TARGET['glm_url']}/v1"}
# A random model may think for ever: it is told not to think.
AT_ONCE = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
HI = [ChatMessage(role="user", content="Say hello.")]
checks = Checks()
check = checks.check
chat = OpenAILike(**MAIN, is_chat_model=True, max_tokens=8)


class Answer(BaseModel):
    """An answer."""

    yes: bool


@check("`chat` and `stream_chat` give the same text")
def _() -> None:
    whole = chat.chat(HI).message.content
    *_, last = chat.stream_chat(HI)
    assert whole
    assert last.message.content == whole


@check("`complete` and `stream_complete` without a chat template")
def _() -> None:
    plain = OpenAILike(**MAIN, is_chat_model=False, max_tokens=6)
    *_, last = plain.stream_complete("One two three")
    assert last.text == plain.complete("One two three").text


@check("asynchronous chats run together")
def _() -> None:
    async def work() -> list[str]:
        return [reply.message.content for reply in await asyncio.gather(*(chat.achat(HI) for _ in range(4)))]

    assert len(set(asyncio.run(work()))) == 1


@check("`structured_predict` fills an object through a function call")
def _() -> None:
    from llama_index.core.prompts import PromptTemplate

    model = OpenAILike(
        **GLM, is_chat_model=True, is_function_calling_model=True, max_tokens=400, additional_kwargs=AT_ONCE
    )  # fmt: skip
    assert isinstance(model.structured_predict(Answer, PromptTemplate("Yes?"), tool_choice="required"), Answer)


@check("`chat_with_tools` with a required tool gives its calls")
def _() -> None:
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    model = OpenAILike(
        **GLM, is_chat_model=True, is_function_calling_model=True, max_tokens=400, additional_kwargs=AT_ONCE
    )  # fmt: skip
    reply = model.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="Weather?", tool_required=True)
    assert [call.tool_name for call in model.get_tool_calls_from_response(reply)][:1] == ["weather"]


checks.run()
