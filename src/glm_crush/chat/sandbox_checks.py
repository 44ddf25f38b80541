"""Operations that can make much of little, measured before they are done.

Below it: the budget. Above it: the sandbox, which calls `check_operator`, `check_filter` and `check_method` before
the real thing. Everything else in a template yields at most what its operands hold, and is paid for afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glm_crush.chat.sandbox_budget import Budget
from glm_crush.errors import TemplateError

__all__ = ["check_filter", "check_format", "check_method", "check_operator"]

_MAX_INTEGER_BITS = 4096
_MAX_WIDTH = 1000
_STRING_METHODS = frozenset(
    """
    capitalize casefold center count endswith find format format_map index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
    removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
    strip swapcase title upper zfill
    """.split()  # noqa: SIM905 easier to read than forty quoted strings
)
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, _STRING_METHODS),
    (Mapping, frozenset({"copy", "get", "items", "keys", "values"})),
    (Sequence, frozenset({"copy", "count", "index"})),
)
_SEQUENCE = (str, bytes, list, tuple)


def check_operator(operator: str, left: Any, right: Any, budget: Budget) -> None:
    """Refuse a `+`, `*`, `**` or `%` whose result is too large. Raises TemplateError."""
    if operator == "%" and isinstance(left, str):
        check_format(left, right if isinstance(right, tuple) else (right,), budget)
    elif operator == "+" and isinstance(left, _SEQUENCE) and isinstance(right, _SEQUENCE):
        _spend_copies(left, 1, budget)
        _spend_copies(right, 1, budget)
    elif operator == "*" and isinstance(left, _SEQUENCE) and isinstance(right, int):
        _spend_copies(left, right, budget)
    elif operator == "*" and isinstance(right, _SEQUENCE) and isinstance(left, int):
        _spend_copies(right, left, budget)
    elif isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
        if bits > _MAX_INTEGER_BITS:
            raise TemplateError(
                f"chat template computes an integer of {bits} bits; at most {_MAX_INTEGER_BITS} are allowed"
            )


def check_filter(name: str, value: Any, args: tuple[Any, ...], budget: Budget) -> None:
    """Refuse a filter whose result is too large. Raises TemplateError."""
    if name == "format":
        check_format(str(value), args, budget)
    elif name in ("center", "batch", "slice", "indent"):
        for width in args:
            _check_width(name, width)
        budget.spend_text(value, times=2)
        if name == "indent" and isinstance(value, str):
            budget.spend(value.count("\n") * _MAX_WIDTH if args else 0)
    elif name == "replace" and len(args) >= 2:
        _check_replace(str(value), str(args[0]), str(args[1]), budget)
    elif name == "join":
        budget.spend_text(list(value) if isinstance(value, Iterable) else value)
        if args and isinstance(args[0], str) and isinstance(value, Sequence):
            budget.spend(len(args[0]) * len(value))
    elif name == "string":
        budget.spend_text(value)


def check_method(method: Any, args: tuple[Any, ...], budget: Budget) -> None:
    """Refuse a method of a built-in type that is not known to be harmless, or whose result is too large.

    Raises TemplateError.
    """
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", "")
    if owner is None or isinstance(owner, type):
        return
    if not isinstance(owner, (str, bytes, int, float, Mapping, Sequence)):
        return
    allowed = next((names for kind, names in _METHODS if isinstance(owner, kind)), frozenset())
    if name not in allowed:
        raise TemplateError(f"chat template calls {type(owner).__name__}.{name}(), which is not allowed")
    if name in ("ljust", "rjust", "center", "zfill"):
        _check_width(name, args[0] if args else 0)
    elif name == "replace" and len(args) >= 2 and isinstance(owner, str):
        _check_replace(owner, str(args[0]), str(args[1]), budget)
    elif name == "join" and args and isinstance(owner, str) and isinstance(args[0], Sequence):
        budget.spend_text(args[0])
        budget.spend(len(owner) * len(args[0]))


def check_format(template: str, values: Sequence[Any], budget: Budget) -> None:
    """Refuse %-formatting or str.format with a width that is long or comes from a value, or too large a result.

    Raises TemplateError.
    """
    if re.search(r"%[^a-zA-Z%]*(\*|\d{4})|\{[^{}]*(:[^{}]*\{|\d{4})", template):
        raise TemplateError(
            f"chat template formats with {template[:80]!r}; widths over 999 or from values are not allowed"
        )
    fields = template.count("%") + template.count("{")
    budget.spend(len(template))
    for value in values:
        budget.spend_text(value, times=max(fields, 1))


def _check_width(name: str, width: Any) -> None:
    if isinstance(width, int) and abs(width) > _MAX_WIDTH:
        raise TemplateError(f"chat template calls {name} with {width}; at most {_MAX_WIDTH} is allowed")
    if isinstance(width, str) and len(width) > _MAX_WIDTH:
        raise TemplateError(
            f"chat template calls {name} with {len(width)} characters; at most {_MAX_WIDTH} are allowed"
        )


def _check_replace(text: str, old: str, new: str, budget: Budget) -> None:
    found = text.count(old) if old else len(text) + 1
    budget.spend(len(text) + found * len(new))


def _spend_copies(sequence: Any, times: int, budget: Budget) -> None:
    cost = 1 if isinstance(sequence, (str, bytes)) else 8
    budget.spend(len(sequence) * max(times, 0) * cost)
