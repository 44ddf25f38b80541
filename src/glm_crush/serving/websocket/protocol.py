"""The messages of `/v1/ws`: JSON objects with a `type`; what belongs to a generation carries the client's `id` for it.

Above: `connection`. Below: pydantic, and the requests of the OpenAI API, which are taken as they are.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.openai.protocol import ChatRequest

__all__ = ["Cancel", "Chat", "ClientMessage", "Logs", "Ping", "parse_message", "server_message"]

_Id = Annotated[str, Field(min_length=1, max_length=128)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Chat(_Message):
    """Begin a generation: `request` is the body of POST /v1/chat/completions."""

    type: Literal["chat"]
    id: _Id
    request: ChatRequest


class Cancel(_Message):
    """End a generation where it stands."""

    type: Literal["cancel"]
    id: _Id


class Ping(_Message):
    """Ask for a pong."""

    type: Literal["ping"]


class Logs(_Message):
    """Begin or end to hear the server's log, from `level` on; first at most `recent` lines that were written before."""

    type: Literal["logs"]
    subscribe: bool = True
    recent: Annotated[int, Field(ge=0)] = 0
    level: Literal["debug", "info", "warning", "error"] = "info"


ClientMessage = Annotated[Chat | Cancel | Ping | Logs, Field(discriminator="type")]
_ADAPTER: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)


def parse_message(text: str | bytes) -> ClientMessage:
    """What a client sent.

    Raises:
        InvalidParameterError: it is no such message; names the first field that is wrong.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "message"
        raise InvalidParameterError(f"{where}: {first['msg']}", parameter=where) from None
    except RecursionError:
        raise InvalidParameterError("the message is nested too deeply", parameter="message") from None


def server_message(kind: str, **fields: Any) -> str:
    """One message to a client."""
    return to_json({"type": kind, **fields}).decode()


def chunk_message(generation: str, chunk: bytes) -> str:
    """A chunk of the OpenAI API, encoded already, as the delta of a generation."""
    return f'{{"type":"delta","id":{json.dumps(generation)},"chunk":{chunk.decode()}}}'
