"""JSON in and out of HTTP: typed requests whose refusals name the field, and replies without a detour over text.

Above: the protocol adapters. Below: pydantic. It knows no protocol's fields.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Collection
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError, to_json
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError, RequestError

__all__ = ["StrictModel", "explained", "json_response", "only_parts", "parse_request", "read_request"]

_LARGE_BODY = 100_000  # bytes; less is parsed in about a millisecond
Parsed = TypeVar("Parsed", bound=BaseModel)


class StrictModel(BaseModel):
    """An object whose every field is known and of its type: a number in quotes is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


def only_parts(*kinds: str) -> BeforeValidator:
    """Name the first part of a list that is an image, a file or the like, before its fields are found to be unknown."""

    def check(content: object) -> object:
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and isinstance(kind := part.get("type"), str) and kind not in kinds:
                context = {"index": index, "kind": kind[:40], "kinds": " or ".join(repr(name) for name in kinds)}
                raise PydanticCustomError("not_text", "{kind}", context)
        return content

    return BeforeValidator(check)


async def read_request(request_class: type[Parsed], http: Request) -> Parsed:
    """The request in a body; a large one is parsed off the event loop.

    Raises:
        RequestError: see `parse_request`.
    """
    body = await http.body()
    if len(body) < _LARGE_BODY:
        return parse_request(request_class, body)
    return await asyncio.to_thread(parse_request, request_class, body)


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    """A JSON response without the detour over Python strings."""
    return Response(to_json(body), status_code=status, media_type="application/json")


def parse_request(request_class: type[Parsed], body: bytes) -> Parsed:
    """The typed request in a JSON body.

    Raises:
        RequestError: not JSON, or not an object.
        InvalidParameterError: an unknown field or one of a wrong type; names it.
    """
    try:
        return request_class.model_validate_json(body)
    except ValidationError as error:
        raise explained(error, request_class.model_fields) from None


def explained(error: ValidationError, fields: Collection[str]) -> RequestError:
    """What is wrong with an object that has these fields, in one sentence that names the place."""
    telling = ("extra_forbidden", "not_text")  # the others may only follow from these
    # of a union's arms, the one that was understood deepest is the one that was meant
    first = min(error.errors(include_url=False), key=lambda e: (e["type"] not in telling, -len(e["loc"])))
    return _explain(first, fields)


def _explain(first: Any, fields: Collection[str]) -> RequestError:
    location = _location(first["loc"])
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {first['ctx']['error']}")
    if not location:
        return RequestError("the body must be a JSON object")
    if first["type"] == "extra_forbidden":
        # `fields` are those of the whole request: they are no advice for an object within it
        near = [] if len(first["loc"]) > 1 else difflib.get_close_matches(location, fields, n=1)
        message = (
            f"{location} is not a parameter of this endpoint; {f'did you mean {near[0]}?' if near else 'remove it'}"
        )
    elif first["type"] == "not_text":
        location += f"[{first['ctx']['index']}]"
        kind, kinds = first["ctx"]["kind"], first["ctx"]["kinds"]
        message = f"{location} is a part of type {kind!r}; this model reads only text: send parts of type {kinds}"
    elif first["type"] == "missing":
        message = f"{location} is required"
    else:
        message = f"{location} is {_shorten(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return InvalidParameterError(message, parameter=location)


def _location(parts: tuple[int | str, ...]) -> str:
    """`messages[0].content` from pydantic's path; names of union arms (`list[str]`, `str`, a tag) are left out."""
    models = StrictModel.__subclasses__()
    arms = {"str", "int", "float", "bool", *(model.__name__ for model in models)}
    tags = {tag for model in models for tag in _tags(model)}
    text = ""
    for place, part in enumerate(parts):
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in arms or "[" in part:
            continue
        elif part in tags and isinstance(parts[place - 1], int) and place + 1 < len(parts):
            continue  # in a list of tagged objects, the tag stands between index and field
        else:
            text += f".{part}" if text else part
    return text


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the field that tells objects of a list apart."""
    field = model.model_fields.get("type") or model.model_fields.get("role")
    return get_args(field.annotation) if field is not None else ()


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
