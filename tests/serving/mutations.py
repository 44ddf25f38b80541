"""Requests that are almost right: a valid one with one or two places broken."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

__all__ = ["mutated"]

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "\u0000", "auto", "none", "json", "-1", "5m", "user", "tool", "<think>", "\U0001f600"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from _places(value[key], (*path, key))


@st.composite
def mutated(draw: Any, body: dict[str, Any]) -> dict[str, Any]:
    """`body` with places replaced, removed, doubled or added to."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(body))
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        holder: Any = body
        for key in path:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "double", "add"])):
            case "replace":
                holder[last] = draw(_VALUES)
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = draw(_VALUES)
    return body
