"""Python functions as tools of a chat: what the model is told about them, and calling them with what it answers.

Above: the builders of requests, users' programs. Below: pydantic, which reads the annotations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from glm_crush.errors import InvalidParameterError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from glm_crush.client.chat_reply import ToolCall
    from glm_crush.types import Message

__all__ = ["call_functions", "function_tool"]


def function_tool(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as a tool in OpenAI's form: its name, its docstring, a schema of its parameters.

    Raises:
        InvalidParameterError: its parameters cannot be described; annotate them.
    """
    from pydantic.errors import PydanticUserError

    name = getattr(function, "__name__", type(function).__name__)
    try:
        schema = _adapter(function).json_schema()
    except PydanticUserError as error:
        raise InvalidParameterError(f"{name} cannot be a tool: {error}", parameter="tools") from error
    if schema.get("type") != "object":
        raise InvalidParameterError(
            f"{name} takes parameters by position, and a model gives them by name; let them have names",
            parameter="tools",
        )
    described = {"description": text} if (text := inspect.getdoc(function)) else {}
    return {"type": "function", "function": {"name": name, **described, "parameters": schema}}


def call_functions(calls: Sequence[ToolCall], functions: Sequence[Callable[..., Any]]) -> list[Message]:
    """Call the functions that a reply names, and make the messages that answer it.

    A function that raises is answered with its error, which the model can read; so is a call with arguments that the
    function does not take.

    Raises:
        InvalidParameterError: no function has the name.
    """
    from pydantic import ValidationError

    named = {getattr(function, "__name__", ""): function for function in functions}
    messages: list[Message] = []
    for call in calls:
        function = named.get(call.name)
        if function is None:
            raise InvalidParameterError(
                f"the reply calls {call.name!r:.80}; the functions given are {', '.join(named)}", parameter="functions"
            )
        try:
            result = _adapter(function).validate_json(call.arguments)
            content = result if isinstance(result, str) else msgspec.json.encode(result).decode()
        except ValidationError as error:
            content = f"error: {error}"
        except Exception as error:  # noqa: BLE001 - whatever a tool fails with is what the model is told
            content = f"error: {type(error).__name__}: {error}"
        messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    return messages


def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """Pydantic's view of a function: its parameters as a schema, and a call with checked arguments."""
    from pydantic import TypeAdapter

    form: Any = function
    return TypeAdapter(form)
