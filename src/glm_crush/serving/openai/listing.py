"""Lists in pages, as OpenAI's: `limit`, `after`, `order` in, `has_more` and two ids out.

Above: the routes of files, batches and responses. Below: query parameters. It knows no database.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from glm_crush.errors import InvalidParameterError

__all__ = ["Page", "PageQuery", "may_be_id", "page_object", "page_query", "query_parameters"]


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class PageQuery:
    """Which part of a list is wanted; `after` is the id of the last object of the page before."""

    limit: int
    after: str | None
    order: Literal["asc", "desc"]


@dataclass(frozen=True)
class Page:
    """One part of a list."""

    items: Sequence[Any]
    has_more: bool


def page_query(
    http: Request,
    *,
    default_limit: int,
    most: int,
    order: Literal["asc", "desc"] = "desc",
    others: Collection[str] = (),
) -> PageQuery:
    """The page that a request asks for.

    Args:
        http: with query parameters.
        default_limit: when none is given.
        most: the largest limit.
        order: when none is given.
        others: further query parameters that the route knows.

    Raises:
        InvalidParameterError: an unknown parameter, or a value out of range; names it.
    """
    given = query_parameters(http, {"limit", "after", "order", *others})
    text = given.get("limit", str(default_limit))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise InvalidParameterError(f"limit is {text!r:.40}; give a whole number in [1, {most}]", parameter="limit")
    wanted = given.get("order", order)
    if wanted not in ("asc", "desc"):
        raise InvalidParameterError(f"order is {wanted!r:.40}; give asc or desc", parameter="order")
    return PageQuery(int(text), given.get("after"), "asc" if wanted == "asc" else "desc")


def may_be_id(text: str) -> bool:
    """Whether a text can be the id of a stored object; a database is not asked for anything else."""
    return _ID.fullmatch(text) is not None


def query_parameters(http: Request, known: Collection[str]) -> Mapping[str, str]:
    """The query parameters of a request.

    Raises:
        InvalidParameterError: one that the route does not know.
    """
    for name in http.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "remove it"
            raise InvalidParameterError(f"{name:.60} is not a parameter of this endpoint; {remedy}", parameter=name)
    return http.query_params


def page_object(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page in OpenAI's shape."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
