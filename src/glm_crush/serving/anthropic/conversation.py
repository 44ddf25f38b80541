"""Anthropic's messages in the neutral shape: blocks become text, reasoning, calls and results in the order they came.

Above: the routes. Below: the types of messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from glm_crush.serving.anthropic.protocol import (
    AssistantMessage,
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from glm_crush.serving.anthropic.signature import restored_thinking
from glm_crush.types import Message

__all__ = ["neutral_messages", "prefill_of"]


def prefill_of(conversation: Conversation) -> str:
    """How the reply begins already: the text of a last message that is the assistant's and makes no call."""
    last = conversation.messages[-1]
    if not isinstance(last, AssistantMessage):
        return ""
    if isinstance(last.content, str):
        return last.content
    if any(isinstance(block, ToolUseBlock) for block in last.content):
        return ""
    return "".join(block.text for block in last.content if isinstance(block, TextBlock))


def neutral_messages(conversation: Conversation) -> list[Message]:
    """The conversation without its prefill; consecutive messages of a user are one, as Anthropic has it.

    Raises:
        InvalidParameterError: a thinking block's text is left out and its signature is not one of ours.
    """
    messages: list[Message] = []
    if conversation.system:
        messages.append({"role": "system", "content": _text(conversation.system)})
    given = conversation.messages[:-1] if prefill_of(conversation) else conversation.messages
    for index, message in enumerate(given):
        if message.role == "assistant":
            messages.append(_assistant(message, f"messages[{index}]"))
        elif message.role == "system":
            messages.append({"role": "system", "content": _text(message.content)})
        elif isinstance(message.content, str):
            _add_user_text(messages, message.content)
        else:
            _add_user_blocks(messages, message.content)
    return messages


def _add_user_blocks(messages: list[Message], blocks: Sequence[TextBlock | ToolResultBlock]) -> None:
    texts: list[str] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
            continue
        if texts:
            _add_user_text(messages, "\n".join(texts))
            texts = []
        content = _text(block.content or "")
        content = f"Error: {content}" if block.is_error else content
        messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": content})
    if texts or not blocks:
        _add_user_text(messages, "\n".join(texts))


def _add_user_text(messages: list[Message], text: str) -> None:
    last = messages[-1] if messages else None
    if last is not None and last.get("role") == "user":
        last["content"] = f"{last.get('content')}\n\n{text}"
    else:
        messages.append({"role": "user", "content": text})


def _assistant(message: AssistantMessage, where: str) -> Message:
    if isinstance(message.content, str):
        return {"role": "assistant", "content": message.content}
    text, reasoning = [], []
    calls: list[dict[str, object]] = []
    for index, block in enumerate(message.content):
        if isinstance(block, TextBlock):
            text.append(block.text)
        elif isinstance(block, ThinkingBlock):
            reasoning.append(restored_thinking(block.thinking, block.signature, f"{where}.content[{index}].signature"))
        else:
            function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            calls.append({"id": block.id, "type": "function", "function": function})
    result: Message = {"role": "assistant", "content": "".join(text)}
    if reasoning:
        result["reasoning_content"] = "\n".join(reasoning)
    if calls:
        result["tool_calls"] = calls
    return result


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
