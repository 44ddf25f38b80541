"""The shapes of Anthropic's replies, for the description of the API.

Above: the routes. Below: nothing. Real replies are held against these by `make conformance`.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

__all__ = ["MessageReply", "TokenCount"]


class MessageUsage(TypedDict):
    """Tokens read and written."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessageReply(TypedDict):
    """A whole message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(TypedDict):
    """How many tokens a message would read."""

    input_tokens: int
