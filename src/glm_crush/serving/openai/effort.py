"""What `reasoning_effort` of chat completions and `reasoning.effort` of responses ask for.

Above: both routes. Below: the chat template's switch. Thinking is on or off: models have no steps between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.served_model import ServedModel

__all__ = ["Effort", "with_effort"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def with_effort(
    variables: Mapping[str, Any] | None, effort: Effort | None, model: ServedModel, parameter: str
) -> dict[str, Any]:
    """Variables of the chat template, with thinking on or off as the effort says.

    Raises:
        InvalidParameterError: the model does not reason; names the parameter.
    """
    if effort is None:
        return dict(variables or {})
    thinks = effort not in ("none", "minimal")
    if thinks and (model.replies is None or not model.replies.markers.can_reason):
        raise InvalidParameterError(
            f"{parameter} is {effort!r}, and {model.name} does not reason; leave it out", parameter=parameter
        )
    return {**(variables or {}), "enable_thinking": thinks}
