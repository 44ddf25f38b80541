"""What the model is given: token ids, and prompts as templates make them.

Above: the two clients. Below: the chat and completion options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from glm_crush.client.call import Answer, Call, given, read_as
from glm_crush.client.chat_options import ChatOptions, CompletionOptions, Tool, checked_options
from glm_crush.client.chats import Messages, chat_body
from glm_crush.client.completions import Prompt
from glm_crush.client.function_tools import function_tool
from glm_crush.client.result import Result
from glm_crush.types import Message

__all__ = ["Rendered", "Tokens", "detokenize", "render", "render_completion", "tokenize"]


class Tokens(Result, frozen=True):
    """Token ids; `token_strs` spells them if that was asked for."""

    tokens: tuple[int, ...]
    count: int
    max_model_len: int
    token_strs: tuple[str, ...] | None = None


class Rendered(Result, frozen=True):
    """What the engine would be asked."""

    model: str
    token_ids: tuple[int, ...]
    prompt: str
    sampling_params: Mapping[str, Any]


class _Text(Result, frozen=True):
    prompt: str


def tokenize(
    text: str | Sequence[Message],
    *,
    model: str | None = None,
    add_special_tokens: bool | None = None,
    spell: bool | None = None,
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Call[Tokens]:
    """The token ids of a text, or of a conversation as the model's template writes it.

        client.tokenize("Hello").count

    Args:
        text: a text or messages.
        model: left out: the default one.
        add_special_tokens: of a text: whether it gets what the model wants at the start.
        spell: also give each token as text.
        tools: of messages, as in a chat.
        add_generation_prompt: of messages: whether the model's turn begins at the end.
        chat_template_kwargs: of messages: variables of the template.
    """
    source = {"prompt": text} if isinstance(text, str) else {"messages": list(text)}
    body = source | given(
        model=model,
        add_special_tokens=add_special_tokens,
        return_token_strs=spell,
        tools=None if tools is None else [function_tool(tool) if callable(tool) else tool for tool in tools],
        add_generation_prompt=add_generation_prompt,
        chat_template_kwargs=chat_template_kwargs,
    )
    return Call(method="POST", path="/tokenize", body=body, parse=read_as(Tokens))


def detokenize(tokens: Sequence[int], *, model: str | None = None) -> Call[str]:
    """The text of token ids."""
    read = read_as(_Text)

    def text(answer: Answer) -> str:
        return read(answer).prompt

    return Call(method="POST", path="/detokenize", body={"tokens": list(tokens), **given(model=model)}, parse=text)


def render(messages: Messages, **options: Unpack[ChatOptions]) -> Call[Rendered]:
    """The prompt that a chat would have, without asking the model anything."""
    body = chat_body(messages, **options)
    return Call(method="POST", path="/v1/chat/completions/render", body=body, parse=read_as(Rendered))


def render_completion(prompt: Prompt, **options: Unpack[CompletionOptions]) -> Call[tuple[Rendered, ...]]:
    """The prompts that a completion would have."""
    body = {"prompt": prompt, **checked_options(options, CompletionOptions)}
    return Call(method="POST", path="/v1/completions/render", body=body, parse=read_as(tuple[Rendered, ...]))
