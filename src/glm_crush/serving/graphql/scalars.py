"""Scalars of the schema: whole numbers beyond 32 bits, and long lists that are one value each.

Above: inputs and outputs. Below: Strawberry. GraphQL completes a list item by item, at microseconds each: a list of
thousands of numbers would hold up the event loop, so it is a scalar, checked and written as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

__all__ = ["SCALARS", "BigInt", "TokenIds", "Vector"]

BigInt = NewType("BigInt", int)
TokenIds = NewType("TokenIds", list[int])
Vector = NewType("Vector", list[float])


def _big_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _no_input(_: Any) -> Any:
    raise ValueError("this type is only given out")


SCALARS: Mapping[object, ScalarDefinition] = MappingProxyType(
    {
        BigInt: strawberry.scalar(
            name="BigInt", description="A whole number of any size.", serialize=int, parse_value=_big_int
        ),
        TokenIds: strawberry.scalar(
            name="TokenIds",
            description="A list of token ids, as one value: `[1, 2, 3]`.",
            serialize=list,
            parse_value=_no_input,
        ),
        Vector: strawberry.scalar(
            name="Vector",
            description="A list of numbers, as one value: `[0.25, -0.5]`.",
            serialize=list,
            parse_value=_no_input,
        ),
    }
)
