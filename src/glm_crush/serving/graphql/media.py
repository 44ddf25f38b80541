"""Which media type a client gets, of those that GraphQL over HTTP has.

Above: `http.py`. Below: nothing.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["EVENT_STREAM", "JSON", "RESPONSE", "MediaType", "chosen_media_type"]

MediaType = Literal["application/graphql-response+json", "application/json", "text/event-stream"]
RESPONSE: MediaType = "application/graphql-response+json"
JSON: MediaType = "application/json"
EVENT_STREAM: MediaType = "text/event-stream"

_OFFERED: tuple[MediaType, ...] = (JSON, RESPONSE, EVENT_STREAM)


def chosen_media_type(accept: str | None) -> MediaType | None:
    """The one of the highest weight, named ones before ranges; None = nothing that this server has.

    A client that names none gets application/json, which those understand that know no other.
    """
    if accept is None or not accept.strip():
        return JSON
    best: tuple[float, int, int] | None = None
    chosen: MediaType | None = None
    for place, entry in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = _weight(parameters)
        for media_type in _OFFERED:
            exactness = _match(name, media_type)
            rank = (weight, exactness, -place)
            if exactness and weight > 0 and (best is None or rank > best):
                best, chosen = rank, media_type
    return chosen


def _match(name: str, media_type: MediaType) -> int:
    """How exactly a range of Accept names a type; 0 = not at all."""
    if name == media_type:
        return 3
    if name == "*/*":
        return 1
    return 2 if name == f"{media_type.partition('/')[0]}/*" else 0


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
