"""A request as a value: what to send, and how the answer becomes a result. Nothing here sends anything.

Above: the builders of requests, one module for each part of the API. Below: msgspec. The two clients, which wait in
different ways, share all of it: a request is defined once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from glm_crush.errors import ProtocolError

__all__ = [
    "Answer",
    "Call",
    "Flow",
    "Pause",
    "Pieces",
    "StreamCall",
    "StreamReader",
    "Upload",
    "given",
    "place",
    "read_as",
]

Result = TypeVar("Result")
Event_co = TypeVar("Event_co", covariant=True)
Whole_co = TypeVar("Whole_co", covariant=True)

Pieces = Literal["events", "lines"]


@dataclass(frozen=True)
class Answer:
    """What a server answered with success; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Upload:
    """A form with one file."""

    filename: str
    content: bytes | BinaryIO
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Result]):
    """One request and its result.

    Attributes:
        parse: raises ProtocolError.
        body: sent as JSON. upload: a form instead.
        repeatable: sending it twice does no more than sending it once, so that it may be sent again when nobody knows
            whether the server has done it.
        accepts: statuses that are answers too, beside those of success.
    """

    method: str
    path: str
    parse: Callable[[Answer], Result]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    upload: Upload | None = None
    repeatable: bool = True
    accepts: Collection[int] = ()


class Page(msgspec.Struct, Generic[Result], frozen=True):
    """A part of a list."""

    data: tuple[Result, ...]
    has_more: bool = False
    last_id: str | None = None


class StreamReader(Protocol[Event_co, Whole_co]):
    """Reads a stream piece by piece, and keeps what the pieces add up to."""

    @property
    def is_complete(self) -> bool:
        """Whether its last piece has been read; a stream that ends before is an error."""
        ...

    def read(self, text: str) -> Sequence[Event_co]:
        """The events in one piece: the data of a server-sent event, or a line.

        Raises:
            GlmError: the server reported an error. ProtocolError: the piece is none of this API.
        """
        ...

    def whole(self) -> Whole_co:
        """What has come so far, as one value."""
        ...


@dataclass(frozen=True, kw_only=True)
class StreamCall(Generic[Event_co, Whole_co]):
    """One request whose answer comes in pieces.

    Attributes:
        reader: makes a fresh reader. pieces: how the answer is cut.
    """

    method: str
    path: str
    reader: Callable[[], StreamReader[Event_co, Whole_co]]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    pieces: Pieces = "events"
    repeatable: bool = True


@dataclass(frozen=True)
class PageCall(Generic[Result]):
    """A list that comes in pages.

    Attributes:
        item: the type of what it holds.
    """

    path: str
    item: type[Result]
    query: Mapping[str, str | int]

    def page(self, after: str | None) -> Call[Page[Result]]:
        """The page behind the item with this id; None = the first one."""
        query = {**self.query, **given(after=after)}
        return Call(method="GET", path=self.path, query=query, parse=_read_page(self.item))


@dataclass(frozen=True)
class Pause:
    """A step of a flow that only waits."""

    seconds: float


Flow = Generator[Call[Any] | Pause, Any, Result]
"""Several requests in a row: yields each and is sent its result; what waits, and how, is the client's business."""


def given(**values: Any) -> dict[str, Any]:
    """The parameters that were given: None means that one was not."""
    return {name: value for name, value in values.items() if value is not None}


def place(*parts: str) -> str:
    """A path of which each part may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def read_as(kind: type[Result]) -> Callable[[Answer], Result]:
    """A parser of JSON answers of one type; fields that it does not know are left out."""

    def parse(answer: Answer) -> Result:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            shown = answer.content[:200].decode("utf-8", errors="replace")
            raise ProtocolError(
                f"the answer is no {kind.__name__} ({error}): {shown!r}; is this a glm server?"
            ) from error

    return parse


def read_rows(item: type[Result]) -> Callable[[Answer], tuple[Result, ...]]:
    """A parser of lists that come whole."""
    read = _read_page(item)
    return lambda answer: read(answer).data


def _read_page(item: type[Result]) -> Callable[[Answer], Page[Result]]:
    generic: Any = Page
    return read_as(generic[item])
