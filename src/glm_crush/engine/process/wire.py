"""What parent and child say to each other: msgpack frames of typed messages, each behind its length.

Above: `host` in the child, `supervisor` in the parent. Nothing on the wire is code: a frame that is not one of these
messages raises, and whoever reads it gives the other side up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from glm_crush import errors
from glm_crush.engine.cache_plan import CachePlan
from glm_crush.engine.metrics import EngineMetrics
from glm_crush.engine.output import RequestDelta
from glm_crush.errors import EngineError, GlmError, OverloadedError, RequestError
from glm_crush.types import SamplingParams, StructuredOutput

__all__ = [
    "Abort",
    "CheckGrammar",
    "Checked",
    "Close",
    "Failed",
    "FrameError",
    "FrameReader",
    "FromChild",
    "FromParent",
    "LoadAdapter",
    "Ready",
    "Refused",
    "Start",
    "Status",
    "Step",
    "Submit",
    "UnloadAdapter",
    "WireError",
    "decode_from_child",
    "decode_from_parent",
    "encode",
]

_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 2**30


class FrameError(Exception):
    """The other side sent something that is not a message."""


class WireError(msgspec.Struct, array_like=True, frozen=True):
    """An exception of ours: the name of its class and what it carries."""

    kind: str
    message: str
    parameter: str | None = None
    retry_after_seconds: float | None = None

    @classmethod
    def of(cls, error: Exception) -> WireError:
        """What to send of an exception."""
        if not isinstance(error, GlmError):
            return cls("EngineError", f"{type(error).__name__}: {error}")
        parameter = error.parameter if isinstance(error, RequestError) else None
        seconds = error.retry_after_seconds if isinstance(error, OverloadedError) else None
        return cls(type(error).__name__, str(error), parameter, seconds)

    def exception(self) -> GlmError:
        """The exception again."""
        error_class: Any = getattr(errors, self.kind) if self.kind in errors.__all__ else EngineError
        extra: dict[str, Any] = {}
        if issubclass(error_class, RequestError):
            extra["parameter"] = self.parameter
        elif issubclass(error_class, OverloadedError):
            extra["retry_after_seconds"] = self.retry_after_seconds
        result: GlmError = error_class(self.message, **extra)
        return result


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


class Start(_Message):
    """Parent: build the engine by calling `make` ("module:function") with these arguments."""

    make: str
    arguments: dict[str, Any]
    adapters: dict[str, str] = {}  # LoRA adapters to load at once: path by name


class Submit(_Message):
    """Parent: a request; `prompt` is its int32 token ids."""

    request_id: str
    prompt: bytes
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    tenant: str = ""
    deadline_seconds: float | None = None  # from when it is sent


class Abort(_Message):
    """Parent: nobody waits for this request any more."""

    request_id: str


class CheckGrammar(_Message):
    """Parent: compile a grammar; answered by `Checked` of the same number."""

    number: int
    structured: StructuredOutput


class LoadAdapter(_Message):
    """Parent: make a LoRA adapter known; answered by `Checked` of the same number."""

    number: int
    name: str
    path: str


class UnloadAdapter(_Message):
    """Parent: forget an adapter; answered by `Checked` of the same number."""

    number: int
    name: str


class Close(_Message):
    """Parent: end now."""


class Ready(_Message):
    """Child: the engine is built and takes requests."""

    cache: CachePlan


class Status(msgspec.Struct, array_like=True, frozen=True):
    """How the engine stands."""

    num_running: int
    num_waiting: int
    cache_usage: float
    metrics: EngineMetrics


class Step(_Message):
    """Child: everything that one step added; one frame a step. Without deltas it is a sign of life."""

    deltas: list[RequestDelta]
    status: Status | None = None


class Refused(_Message):
    """Child: the engine does not take this request."""

    request_id: str
    error: WireError


class Checked(_Message):
    """Child: what was asked for is done (grammar, adapter), or why it cannot be."""

    number: int
    error: WireError | None


class Failed(_Message):
    """Child: the engine cannot be built or cannot go on; the child ends after this."""

    error: WireError


FromParent = Start | Submit | Abort | CheckGrammar | LoadAdapter | UnloadAdapter | Close
FromChild = Ready | Step | Refused | Checked | Failed


def encode(message: FromParent | FromChild) -> bytes:
    """A frame: four bytes of length and the message."""
    body = msgspec.msgpack.encode(message, enc_hook=_encode_error)
    return _LENGTH.pack(len(body)) + body


def decode_from_parent(body: bytes) -> FromParent:
    """The message of a frame. Raises FrameError when it is none."""
    try:
        return msgspec.msgpack.decode(body, type=FromParent, dec_hook=_decode_error)  # type: ignore[no-any-return]
    except msgspec.MsgspecError as error:
        raise FrameError(f"the parent sent {len(body)} bytes that are no message: {error}") from error


def decode_from_child(body: bytes) -> FromChild:
    """The message of a frame. Raises FrameError when it is none."""
    try:
        return msgspec.msgpack.decode(body, type=FromChild, dec_hook=_decode_error)  # type: ignore[no-any-return]
    except msgspec.MsgspecError as error:
        raise FrameError(f"the engine sent {len(body)} bytes that are no message: {error}") from error


def _encode_error(value: object) -> object:
    if isinstance(value, EngineError):  # of one reply, inside its last delta
        return WireError.of(value)
    raise NotImplementedError(f"{type(value).__name__} cannot cross to another process")


def _decode_error(kind: type, value: object) -> object:
    if kind is EngineError:
        return msgspec.convert(value, WireError).exception()
    raise NotImplementedError(f"{kind.__name__} cannot come from another process")


class FrameReader:
    """Cuts bytes into frames as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of the frames that are complete now. Raises FrameError for a length that none of ours has."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > _MAX_FRAME_BYTES:
                raise FrameError(f"a frame announces {length} bytes; at most {_MAX_FRAME_BYTES} can be meant")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            yield bytes(self._buffer[start + _LENGTH.size : end])
            start = end
        del self._buffer[:start]
