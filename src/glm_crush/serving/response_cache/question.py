"""What a request asks in words, and what a reply says in words: the part of each that similarity may decide on.

Above: `semantic.py`. Below: the bodies of the chat protocols, as JSON. Whatever else a body holds is compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

__all__ = ["Question", "answer_in", "question_in"]

# Answers to these are data, not prose: near is not good enough.
_DATA_FIELDS = (
    "tools",
    "functions",
    "structured_outputs",
    "format",
    "output_config",
    "logprobs",
    "prompt_logprobs",
    "images",
    "context",
    "suffix",
    "raw",
)


@dataclass(frozen=True)
class Question:
    """The words of the last user message, and the body without them."""

    words: str
    circumstances: Mapping[str, Any]


def question_in(path: str, body: Mapping[str, Any]) -> Question | None:
    """The question of a request; None if its answer must not be that of a similar one."""
    if any(body.get(name) for name in _DATA_FIELDS) or (body.get("n") or 1) != 1:
        return None
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") != "text":
        return None
    if path == "/api/generate":
        return _generate_question(body)
    messages = body.get("messages")
    if path == "/v1/completions" or not isinstance(messages, list) or not messages:
        return None
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "user" or last.get("images"):
        return None
    words, marked = _words(last.get("content"))
    if words is None:
        return None
    return Question(words, {**body, "messages": [*messages[:-1], {**last, "content": marked}]})


def _generate_question(body: Mapping[str, Any]) -> Question | None:
    words = body.get("prompt")
    return Question(words, {**body, "prompt": None}) if isinstance(words, str) and words.strip() else None


def _words(content: object) -> tuple[str | None, object]:
    """The text of a message's content, and the content without it."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        part = content[0]
        words = part.get("text") if part.get("type") == "text" else None
        return (words, [{**part, "text": None}]) if isinstance(words, str) and words.strip() else (None, None)
    return (content, None) if isinstance(content, str) and content.strip() else (None, None)


def answer_in(path: str, content_type: str, body: bytes) -> str | None:
    """What a whole reply says, streamed or not; None if it says something else than text."""
    read = _READERS[path]
    try:
        pieces = [piece for message in _messages(content_type, body) for piece in read(message)]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    text = "".join(piece or "" for piece in pieces)
    return text if text.strip() and _CALL not in pieces else None


_CALL = "\0call"  # stands for a call of a tool among the pieces of an answer


def _messages(content_type: str, body: bytes) -> Iterator[Any]:
    if content_type.startswith("text/event-stream"):
        for line in body.split(b"\n"):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield from_json(line[5:].strip())
    elif content_type.startswith("application/x-ndjson"):
        yield from (from_json(line) for line in body.split(b"\n") if line.strip())
    else:
        yield from_json(body)


def _openai_pieces(message: Any) -> Iterator[str | None]:
    for choice in message["choices"]:
        said = choice.get("message") or choice.get("delta") or {}
        yield _CALL if said.get("tool_calls") else said.get("content")


def _anthropic_pieces(message: Any) -> Iterator[str | None]:
    for block in message.get("content") or ():
        yield _CALL if block["type"] == "tool_use" else block.get("text")
    if message["type"] == "content_block_start" and message["content_block"]["type"] == "tool_use":
        yield _CALL
    elif message["type"] == "content_block_delta":
        yield message["delta"].get("text")


def _ollama_chat_pieces(message: Any) -> Iterator[str | None]:
    said = message["message"]
    yield _CALL if said.get("tool_calls") else said.get("content")


def _ollama_generate_pieces(message: Any) -> Iterator[str | None]:
    yield message["response"]


_READERS: Mapping[str, Callable[[Any], Iterator[str | None]]] = {
    "/v1/chat/completions": _openai_pieces,
    "/v1/messages": _anthropic_pieces,
    "/api/chat": _ollama_chat_pieces,
    "/api/generate": _ollama_generate_pieces,
}
