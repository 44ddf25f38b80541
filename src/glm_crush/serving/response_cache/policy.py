"""Which requests may be answered from the cache, and what makes two of them the same.

Above: `middleware`. Below: `glm_crush.cache.exact`. Only answers that the engine would give again are kept: greedy
ones and seeded ones; or those whose caller says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json

from glm_crush.cache.exact import canonical_key

__all__ = ["CacheWish", "ReplyIdentity", "cache_wish", "is_cacheable_path", "may_keep", "read_object"]

# Texts that say who asks; they change nothing in the answer. Whatever else stands there is the route's to refuse.
_WHO_ASKS = frozenset({"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
_OPENAI_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


def _seeded(parameters: object, greedy_default: bool) -> bool:
    if not isinstance(parameters, Mapping):
        return greedy_default
    temperature = parameters.get("temperature")
    greedy = greedy_default if temperature is None else temperature == 0
    return greedy or parameters.get("seed") is not None


# path -> the field that holds its sampling parameters ("" = the body itself)
_SAMPLING: Mapping[str, str] = {
    "/v1/chat/completions": "",
    "/v1/completions": "",
    "/v1/messages": "",
    "/api/chat": "options",
    "/api/generate": "options",
}


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a caller's headers say.

    Attributes:
        read: it takes a kept answer. write: its answer may be kept. force: even if it could come out otherwise.
        semantic: it takes the answer of a similar question; None = as the operator has it.
    """

    read: bool = True
    write: bool = True
    force: bool = False
    semantic: bool | None = None


def cache_wish(headers: Mapping[bytes, bytes]) -> CacheWish:
    """What the headers of a request ask for.

    `cache-control: no-store` passes the cache by, `no-cache` renews. `x-glm-cache` has words with commas between:
    `force` keeps what is not seeded, `semantic` takes answers of similar questions, `exact` does not.
    """
    control = headers.get(b"cache-control", b"").lower()
    words = {word.strip() for word in headers.get(b"x-glm-cache", b"").lower().split(b",")}
    return CacheWish(
        read=b"no-store" not in control and b"no-cache" not in control,
        write=b"no-store" not in control,
        force=b"force" in words,
        semantic=False if b"exact" in words else (True if b"semantic" in words else None),
    )


def is_cacheable_path(method: str, path: str) -> bool:
    """Whether a route's answers can be kept at all."""
    return method == "POST" and path in _SAMPLING


def read_object(body: bytes) -> Mapping[str, Any] | None:
    """The JSON object of a body; None if it is something else, which the route will refuse."""
    try:
        value = from_json(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def may_keep(path: str, body: Mapping[str, Any], *, greedy_default: bool) -> bool:
    """Whether the engine would answer the same again."""
    field = _SAMPLING[path]
    return _seeded(body.get(field) if field else body, greedy_default)


@dataclass(frozen=True, slots=True)
class ReplyIdentity:
    """What decides on an answer beside the request's body.

    Attributes:
        model, fingerprint: which model, and how it computes. epoch: of the cache.
    """

    path: str
    tenant: str
    model: str
    fingerprint: str
    epoch: int

    def key(self, body: Mapping[str, Any]) -> str:
        """One key for requests whose answers are the same."""
        relevant = {name: value for name, value in body.items() if name != "model"}
        for name in _who_asks(self.path, body):
            del relevant[name]
        return canonical_key(**asdict(self), body=relevant)


def _who_asks(path: str, body: Mapping[str, Any]) -> list[str]:
    """The fields that requests with the same answer may differ in.

    Only where the route takes them: a kept answer must not stand in for the refusal of a malformed request.
    """
    if path in _OPENAI_PATHS:
        return [name for name in _WHO_ASKS & body.keys() if isinstance(body[name], str)]
    metadata = body.get("metadata")
    known = (
        isinstance(metadata, dict) and metadata.keys() <= {"user_id"} and isinstance(metadata.get("user_id", ""), str)
    )
    return ["metadata"] if path == "/v1/messages" and known else []
