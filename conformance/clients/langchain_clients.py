"""LangChain's chat models for OpenAI, Anthropic and Ollama, and its OpenAI embeddings."""

from __future__ import annotations

import asyncio
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from checks import Checks, target

TARGET = target()
MODEL, GLM = TARGET["model"], TARGET["glm_model"]
OPENAI = {"base_url": f"{TARGET['url']}/v1", "api_key": "none", "max_retries": 0}
# A random model may think for ever: it is told not to think.
AT_ONCE = {"chat_template_kwargs": {"enable_thinking": False}}
GLM_OPENAI = {**OPENAI, "base_url": f"{TARGET['glm_url']}/v1", "extra_body": AT_ONCE}
HI = [SystemMessage("Be brief."), HumanMessage("Say hello.")]
checks = Checks()
check = checks.check


class Answer(BaseModel):
    """An answer."""

    yes: bool


@tool
def weather(city: Literal["Porto"]) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def models() -> list:
    """One chat model for each protocol."""
    return [
        ChatOpenAI(model=MODEL, max_tokens=8, temperature=0, stream_usage=True, **OPENAI),
        ChatAnthropic(model=MODEL, max_tokens=8, temperature=0, base_url=TARGET["url"], api_key="none", max_retries=0),
        ChatOllama(model=MODEL, num_predict=8, temperature=0, base_url=TARGET["url"]),
    ]


@check("`invoke` gives text and usage over OpenAI's, Anthropic's and Ollama's protocol, the same three times")
def _() -> None:
    replies = [model.invoke(HI) for model in models()]
    assert [reply.usage_metadata["output_tokens"] for reply in replies] == [8, 8, 8]
    assert len({reply.content for reply in replies}) == 1, [reply.content for reply in replies]


@check("`stream` adds up to `invoke`, with usage")
def _() -> None:
    for model in models():
        total: AIMessageChunk | None = None
        for chunk in model.stream(HI):
            total = chunk if total is None else total + chunk
        text = total.content if isinstance(total.content, str) else "".join(b["text"] for b in total.content)
        assert text == model.invoke(HI).content
        assert total.usage_metadata["output_tokens"] == 8


@check("a chain with a prompt template runs in batches and asynchronously")
def _() -> None:
    chain = ChatPromptTemplate.from_messages([("user", "Say {word}.")]) | models()[0]
    assert all(reply.content for reply in chain.batch([{"word": "one"}, {"word": "two"}, {"word": "three"}]))
    assert asyncio.run(chain.ainvoke({"word": "four"})).content


@check("`with_structured_output` by JSON schema")
def _() -> None:
    model = ChatOpenAI(model=MODEL, max_tokens=60, **OPENAI)
    assert isinstance(model.with_structured_output(Answer, method="json_schema").invoke("Yes?"), Answer)


@check("`with_structured_output` by a function call")
def _() -> None:
    model = ChatOpenAI(model=GLM, max_tokens=400, **GLM_OPENAI)
    assert isinstance(model.with_structured_output(Answer, method="function_calling").invoke("Yes?"), Answer)


@check("`bind_tools` with a forced tool gives parsed calls, and takes the result back")
def _() -> None:
    model = ChatOpenAI(model=GLM, max_tokens=400, **GLM_OPENAI)
    reply = model.bind_tools([weather], tool_choice="weather").invoke("Weather in Porto?")
    assert {call["name"] for call in reply.tool_calls} == {"weather"}
    results = [ToolMessage("rain", tool_call_id=call["id"]) for call in reply.tool_calls]
    messages = [HumanMessage("Weather?"), reply, *results]
    assert isinstance(model.bind_tools([weather], tool_choice="none").invoke(messages), AIMessage)


@check("`ChatOpenAI(use_responses_api=True)` answers")
def _() -> None:
    model = ChatOpenAI(model=MODEL, max_tokens=20, use_responses_api=True, **OPENAI)
    assert model.invoke(HI).text


@check("`OpenAIEmbeddings` embeds documents and queries")
def _() -> None:
    embeddings = OpenAIEmbeddings(
        model=TARGET["embedding_model"], check_embedding_ctx_length=False, base_url=OPENAI["base_url"], api_key="none"
    )
    documents = embeddings.embed_documents(["a cat", "a dog"])
    query = embeddings.embed_query("a cat")
    assert max(abs(a - b) for a, b in zip(documents[0], query, strict=True)) < 1e-5


checks.run()
