"""The response object before anything has been said: what was asked for, as clients read it back."""

from __future__ import annotations

from typing import Any

from glm_crush.serving.openai.responses.protocol import ResponseRequest
from glm_crush.types import SamplingParams

__all__ = ["new_body"]


def new_body(
    request: ResponseRequest, *, response_id: str, created_at: float, model: str, params: SamplingParams
) -> dict[str, Any]:
    """A response that has not begun; `params` are those in effect."""
    reasoning = request.reasoning
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "completed_at": None,
        "status": "queued" if request.background else "in_progress",
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": None if reasoning is None else reasoning.effort,
            "summary": None if reasoning is None else reasoning.summary or reasoning.generate_summary,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.is_stored,
        "temperature": params.temperature,
        "text": {"format": _text_format(request), "verbosity": "medium"},
        "tool_choice": request.tool_choice if request.tool_choice is not None else "auto",
        "tools": [_tool(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
    }


def _text_format(request: ResponseRequest) -> dict[str, Any]:
    wanted = None if request.text is None else request.text.format
    if wanted is None or wanted.type != "json_schema":
        return {"type": "text" if wanted is None else wanted.type}
    return {
        "type": "json_schema",
        "name": wanted.name or "reply",
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": bool(wanted.strict),
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters")
    return {"type": "function", **{name: tool.get(name) for name in names}, "strict": tool.get("strict") is True}
