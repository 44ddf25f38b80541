"""Items: what a response is made of and what goes into the next one, and the chat messages that they are.

Above: the routes. Below: nothing but the shapes. An item is a JSON object in OpenAI's form; those of clients are
checked here, once, and stored with an id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from glm_crush.errors import InvalidParameterError
from glm_crush.types import Message

__all__ = ["Item", "chat_messages", "check_calls", "checked_items", "new_id"]

Item = dict[str, Any]

_ROLES = ("user", "system", "developer", "assistant")
_STATUSES = (None, "in_progress", "completed", "incomplete")


def new_id(prefix: str) -> str:
    """A fresh id, such as `msg_...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def checked_items(given: str | Sequence[Mapping[str, Any]]) -> list[Item]:
    """The items of a request's `input`, each with an id.

    Raises:
        InvalidParameterError: an item is malformed or of a kind that this server does not know; names its place.
    """
    if isinstance(given, str):
        return [_message_item("user", [{"type": "input_text", "text": given}])]
    return [_checked(item, f"input[{index}]") for index, item in enumerate(given)]


def _checked(item: Mapping[str, Any], place: str) -> Item:
    kind = item.get("type", "message" if "role" in item else None)
    readers: dict[object, Callable[[_Fields], Item]] = {
        "message": _read_message,
        "reasoning": _read_reasoning,
        "function_call": _read_call,
        "function_call_output": _read_output,
    }
    if not isinstance(kind, str) or kind not in readers:
        raise InvalidParameterError(
            f"{place}.type is {kind!r:.80}; this server knows items of the types {', '.join(map(str, readers))}",
            parameter=f"{place}.type",
        )
    fields = _Fields(item, place)
    read = readers[kind](fields)
    fields.refuse_others()
    return read


class _Fields:
    """The fields of an item, taken one by one; what is left over is unknown."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.place = place
        self._left = dict(values)
        self._left.pop("type", None)

    def text(self, name: str, *, default: str | None = None) -> str:
        value = self._left.pop(name, default)
        if value is None and default is not None:
            value = default
        if not isinstance(value, str):
            raise self.wrong(name, value, "a text")
        return value

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def choice(self, name: str, choices: Sequence[object]) -> Any:
        value = self._left.pop(name, None)
        if value not in choices:
            raise self.wrong(name, value, f"one of {', '.join(str(c) for c in choices if c is not None)}")
        return value

    def wrong(self, name: str, value: object, expected: str) -> InvalidParameterError:
        place = f"{self.place}.{name}"
        return InvalidParameterError(f"{place} is {value!r:.80}; give {expected}", parameter=place)

    def refuse_others(self) -> None:
        for name, value in self._left.items():
            if value is not None:
                place = f"{self.place}.{name}"
                raise InvalidParameterError(f"{place:.200} is not a field of this item; remove it", parameter=place)


def _read_message(fields: _Fields) -> Item:
    role = fields.choice("role", _ROLES)
    fields.choice("status", _STATUSES)
    fields.choice("phase", (None, "commentary", "final_answer"))
    item_id = fields.text("id", default=new_id("msg"))
    content = fields.take("content")
    parts: list[dict[str, Any]]
    if isinstance(content, str):
        parts = [{"type": "input_text", "text": content}]
    elif isinstance(content, list):
        parts = [_part(part, f"{fields.place}.content[{index}]") for index, part in enumerate(content)]
    else:
        raise fields.wrong("content", content, "a text or a list of parts")
    if role == "assistant":
        parts = [{"type": "output_text", "text": part["text"], "annotations": []} for part in parts]
    return _message_item(role, parts, item_id)


def _part(part: object, place: str) -> dict[str, Any]:
    kinds = ("input_text", "output_text", "text", "refusal")
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in kinds:
        raise InvalidParameterError(
            f"{place} is a part of the type {kind!r:.60}; this model reads only text: send parts of type input_text",
            parameter=place,
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise InvalidParameterError(f"{place}.text is {text!r:.80}; give a text", parameter=f"{place}.text")
    for name, value in part.items():
        if name not in ("type", "text", "refusal", "annotations", "logprobs") and value is not None:
            raise InvalidParameterError(
                f"{place}.{name:.60} is not a field of this part; remove it", parameter=f"{place}.{name}"
            )
    return {"type": "input_text", "text": text}


def _read_reasoning(fields: _Fields) -> Item:
    item_id = fields.text("id", default=new_id("rs"))
    if fields.take("encrypted_content"):
        raise fields.wrong("encrypted_content", "...", "the reasoning itself in content; this server encrypts none")
    fields.choice("status", _STATUSES)
    content = [_reasoning_part(part, fields, "content", "reasoning_text") for part in fields.take("content") or ()]
    summary = [_reasoning_part(part, fields, "summary", "summary_text") for part in fields.take("summary") or ()]
    return {"id": item_id, "type": "reasoning", "summary": summary, "content": content, "status": "completed"}


def _reasoning_part(part: object, fields: _Fields, name: str, kind: str) -> dict[str, str]:
    if not isinstance(part, Mapping) or part.get("type") != kind or not isinstance(part.get("text"), str):
        raise fields.wrong(name, part, f'parts {{"type": "{kind}", "text": ...}}')
    return {"type": kind, "text": part["text"]}


def _read_call(fields: _Fields) -> Item:
    fields.choice("status", _STATUSES)
    return {
        "id": fields.text("id", default=new_id("fc")),
        "type": "function_call",
        "call_id": fields.text("call_id"),
        "name": fields.text("name"),
        "arguments": fields.text("arguments"),
        "status": "completed",
    }


def _read_output(fields: _Fields) -> Item:
    fields.choice("status", _STATUSES)
    call_id, item_id = fields.text("call_id"), fields.text("id", default=new_id("fco"))
    output = fields.take("output")
    if isinstance(output, list):
        output = "".join(_part(p, f"{fields.place}.output[{i}]")["text"] for i, p in enumerate(output))
    if not isinstance(output, str):
        raise fields.wrong("output", output, "a text or a list of text parts")
    return {"id": item_id, "type": "function_call_output", "call_id": call_id, "output": output, "status": "completed"}


def _message_item(role: str, parts: list[dict[str, Any]], item_id: str | None = None) -> Item:
    return {
        "id": item_id or new_id("msg"),
        "type": "message",
        "role": role,
        "content": parts,
        "status": "completed",
    }


def check_calls(context: Iterable[Item], items: Sequence[Item]) -> None:
    """Every output must answer a call that came before.

    Raises:
        InvalidParameterError: one does not; names its place.
    """
    calls = {item["call_id"] for item in context if item["type"] == "function_call"}
    for index, item in enumerate(items):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            place = f"input[{index}].call_id"
            raise InvalidParameterError(
                f"{place} is {item['call_id']!r:.80}, and no call of that id came before; send the call too, or "
                "the previous_response_id of the response that made it",
                parameter=place,
            )


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[Message]:
    """The conversation as chat templates know it: reasoning, text and calls of one turn are one message."""
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    turn = _AssistantTurn()
    for item in items:
        if item["type"] == "reasoning":
            messages += turn.end() if turn.has_spoken else ()
            turn.reasoning += _texts(item["content"]) or _texts(item["summary"])
        elif item["type"] == "function_call":
            turn.calls.append(item)
        elif item["type"] == "message" and item["role"] == "assistant":
            messages += turn.end() if turn.has_spoken else ()
            turn.content = _texts(item["content"])
        else:
            messages += turn.end()
            messages.append(_other_message(item))
    return messages + turn.end()


class _AssistantTurn:
    def __init__(self) -> None:
        self.reasoning = ""
        self.content: str | None = None
        self.calls: list[Item] = []

    @property
    def has_spoken(self) -> bool:
        return self.content is not None or bool(self.calls)

    def end(self) -> list[Message]:
        """The message of the turn, and a new turn."""
        if not self.reasoning and not self.has_spoken:
            return []
        message: Message = {"role": "assistant", "content": self.content if self.calls else self.content or ""}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [_chat_call(item) for item in self.calls]
        self.__init__()  # type: ignore[misc]
        return [message]


def _other_message(item: Item) -> Message:
    if item["type"] == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
    role = "system" if item["role"] == "developer" else item["role"]
    return {"role": role, "content": _texts(item["content"])}


def _chat_call(item: Item) -> dict[str, object]:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _texts(parts: Iterable[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)
