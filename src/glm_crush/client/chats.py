"""Chats: as a whole, as a stream, as a value of a type.

Above: the two clients. Below: options and replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from glm_crush.client.call import Call, StreamCall, read_as
from glm_crush.client.chat_options import ChatOptions, chat_fields
from glm_crush.client.chat_reply import ChatDelta, ChatReader, ChatReply
from glm_crush.errors import InvalidParameterError, ProtocolError
from glm_crush.types import Message

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["chat", "chat_as", "chat_body", "stream_chat"]

Form = TypeVar("Form")
Messages = str | Sequence[Message]

_PATH = "/v1/chat/completions"


def chat(messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatReply]:
    """Answer a conversation; a text alone is a message of the user.

        client.chat("Why is the sky blue?", max_tokens=100).content

    Raises:
        GlmError: the server refused, or cannot be reached.
    """
    return Call(method="POST", path=_PATH, body=chat_body(messages, **options), parse=read_as(ChatReply))


def stream_chat(messages: Messages, **options: Unpack[ChatOptions]) -> StreamCall[ChatDelta, ChatReply]:
    """Answer a conversation piece by piece; see `Stream`."""
    body = chat_body(messages, **options)
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True, **body.get("stream_options", {})}}
    return StreamCall(method="POST", path=_PATH, body=streamed, reader=ChatReader)


def chat_as(form: type[Form], messages: Messages, **options: Unpack[ChatOptions]) -> Call[Form]:
    """Answer with a value of a type: a pydantic model, a dataclass, a TypedDict, a list of them.

        city = client.chat_as(City, "Where is the Eiffel Tower?")

    The reply is held to the type's JSON schema, to the letter, and to the fields that the type has.

    Raises:
        InvalidParameterError: the reply was cut before its value was whole; raise max_tokens.
        ProtocolError: it is no such value, because the server does not hold replies to schemas or the type has rules
            that a schema cannot express.
    """
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Form] = TypeAdapter(form)
    held: ChatOptions = {**options, "json_schema": _closed(adapter.json_schema())}
    reply = read_as(ChatReply)
    body = chat_body(messages, **held)
    return Call(method="POST", path=_PATH, body=body, parse=lambda answer: _value(adapter, reply(answer)))


def chat_body(messages: Messages, **options: Unpack[ChatOptions]) -> dict[str, Any]:
    """The body of a chat request: what a line of a batch holds, or a message over a WebSocket.

    Raises:
        InvalidParameterError: an option is unknown or contradicts another.
    """
    given: Any = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return {"messages": given, **chat_fields(options)}


def _value(adapter: TypeAdapter[Form], reply: ChatReply) -> Form:
    from pydantic import ValidationError

    try:
        return adapter.validate_json(reply.content)
    except ValidationError as error:
        if reply.finish_reason == "length":
            written = 0 if reply.usage is None else reply.usage.completion_tokens
            raise InvalidParameterError(
                f"the reply was cut after {written} tokens, before its JSON was whole; raise max_tokens",
                parameter="max_tokens",
            ) from error
        raise ProtocolError(f"the reply is no value of that type: {error}") from error


def _closed(schema: Any) -> Any:
    """A schema whose objects have the properties it names and no others: more would be read and thrown away."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    is_object = closed.get("type") == "object" and "properties" in closed
    return {"additionalProperties": False, **closed} if is_object else closed
