"""Messages in the OpenAI shape, made ready for a chat template.

Below it: errors and types. Above it: `ChatTemplate`. Templates expect text where clients may send a list of parts,
and an object where clients send the JSON text of tool arguments; what does not fit is the caller's error and names
its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glm_crush.errors import InvalidParameterError

__all__ = ["called_functions", "normalize_messages", "normalize_tools"]


def normalize_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy the messages into the form templates expect.

    Content becomes text (parts are joined, null is empty), tool arguments become objects, `reasoning` is also
    understood for `reasoning_content`. The caller's objects are not changed.

    Raises:
        InvalidParameterError: a message is malformed or holds something that is not text; names its place.
    """
    for index, message in enumerate(messages):
        if not _is_object(message):
            raise _error(f"messages[{index}]", f"is {_short(message)}; give an object with role and content")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def normalize_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Check that each tool is an object; an empty list is no tools.

    Raises:
        InvalidParameterError: a tool is not an object with a function name.
    """
    for index, tool in enumerate(tools or ()):
        if not _has_name(tool.get("function", tool) if _is_object(tool) else None):
            raise _error(f"tools[{index}]", f"is {_short(tool)}; give an object with function.name")
    return [dict(tool) for tool in tools] if tools else None


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _has_name(function: object) -> bool:
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message.get("role"), str):
        raise _error(f"{where}.role", f"is {_short(message.get('role'))}; give system, user, assistant or tool")
    ready = {**message, "content": _text(message.get("content"), f"{where}.content")}
    reasoning = message.get("reasoning_content", message.get("reasoning"))
    if reasoning is not None:
        ready["reasoning_content"] = _text(reasoning, f"{where}.reasoning_content")
    else:
        ready.pop("reasoning_content", None)
    if message.get("tool_calls"):
        ready["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    else:
        ready.pop("tool_calls", None)
    return ready


def _text(content: object, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _error(where, f"is {_short(content)}; give text or a list of text parts")
    return "".join([_part(part, f"{where}[{index}]") for index, part in enumerate(content)])


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else _short(part)
    raise _error(where, f"is a part of type {kind!r}; this model reads text only")


def called_functions(message: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The functions that a message calls; their arguments are left as they are, which may be text that is no JSON.

    Raises:
        InvalidParameterError: a call is malformed; names its place.
    """
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise _error(f"{where}.tool_calls", f"is {_short(calls)}; give a list")
    return [_function(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise _error(where, f"is {_short(calls)}; give a list")
    return [_tool_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = _function(call, where)
    assert isinstance(call, Mapping)
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _function(call: object, where: str) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _error(where, f"is {_short(call)}; give an object with function.name and function.arguments")
    return function


def _arguments(arguments: object, where: str) -> dict[str, Any]:
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise _error(where, f"is not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise _error(where, f"is {_short(arguments)}; give a JSON object")
    return dict(arguments)


def _short(value: object) -> str:
    return f"{value!r:.60}"


def _error(where: str, problem: str) -> InvalidParameterError:
    return InvalidParameterError(f"{where} {problem}", parameter=where)
