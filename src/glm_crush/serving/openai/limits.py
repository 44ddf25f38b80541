"""OpenAI's own limits, which its routes keep and other protocols, whose requests take the same shape, do not have.

Above: the routes of chat completions, completions and responses.
"""

from __future__ import annotations

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.protocol import ChatRequest, GenerationRequest

__all__ = ["check_chat_limits", "check_limits", "check_temperature"]

_MAX_STOP_STRINGS = 4
_MAX_TEMPERATURE = 2.0


def check_chat_limits(request: ChatRequest) -> None:
    """Raises InvalidParameterError for what OpenAI's chat completions do not take."""
    check_limits(request)
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        if message.role == "user" and message.content is None:
            raise InvalidParameterError(
                f"{where}.content is null; give the user's message as text or as text parts",
                parameter=f"{where}.content",
            )
        if message.role == "tool" and message.tool_call_id is None:
            raise InvalidParameterError(
                f"{where} has no tool_call_id; give the id of the call that it is the result of",
                parameter=f"{where}.tool_call_id",
            )


def check_limits(request: GenerationRequest) -> None:
    """Raises InvalidParameterError for what neither of OpenAI's completions takes."""
    check_temperature(request.temperature)
    if isinstance(request.stop, list) and len(request.stop) > _MAX_STOP_STRINGS:
        raise InvalidParameterError(
            f"stop has {len(request.stop)} strings; give at most {_MAX_STOP_STRINGS}", parameter="stop"
        )


def check_temperature(temperature: float | None) -> None:
    """Raises InvalidParameterError for one that no route of OpenAI's takes."""
    if temperature is not None and temperature > _MAX_TEMPERATURE:
        raise InvalidParameterError(
            f"temperature is {temperature:g}; give one between 0 and {_MAX_TEMPERATURE:g}", parameter="temperature"
        )
