"""Errors as GraphQL has them: a message, where it belongs, and `extensions` with the status and code of every protocol.

Above: the executor and the transports. Below: the table of `serving/errors.py`. Names in refusals become those of the
schema: what checks a request calls it `max_tokens`, its client `maxTokens`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from types import NoneType
from typing import Any

from graphql import GraphQLError
from strawberry.exceptions import StrawberryInputCoercionError

from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.admin import LimitsBody
from glm_crush.serving.graphql.error_shape import classification, error_extensions
from glm_crush.serving.openai.embeddings import EmbeddingRequest
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openai.rerank import RerankRequest

__all__ = ["DocumentRefused", "field_error", "refusal", "request_error"]

_log = logging.getLogger("glm_crush.serving")

# as graphql-java has them
_CLASSIFICATIONS = {"graphql_parse_failed": "InvalidSyntax", "graphql_validation_failed": "ValidationError"}
_REQUESTS = (ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest, LimitsBody)
_NAMES = {name for request in _REQUESTS for name in request.model_fields if "_" in name} | {"expires_at", "key_id"}
_OTHERS = {"structured_outputs.json": "responseFormat.jsonSchema", "structured_outputs": "responseFormat"}
_WORD = re.compile(r"structured_outputs(?:\.json\b)?|[a-z0-9]+(?:_[a-z0-9]+)+")


class DocumentRefused(Exception):  # noqa: N818 (a refusal, which becomes the errors of a response)
    """An operation that is not begun.

    Attributes:
        errors: why. code: for programs. status: what it is where statuses are told.
    """

    def __init__(self, errors: Iterable[GraphQLError], code: str, status: int = 400) -> None:
        self.errors = list(errors)
        super().__init__(self.errors[0].message if self.errors else code)
        self.code = code
        self.status = status

    def formatted(self) -> list[dict[str, Any]]:
        """The `errors` of the response."""
        return [request_error(error, self.code, self.status) for error in self.errors]


def refusal(message: str, code: str, status: int = 400) -> DocumentRefused:
    """One error that belongs to no place of the document."""
    return DocumentRefused([GraphQLError(message)], code, status)


def request_error(error: GraphQLError, code: str, status: int) -> dict[str, Any]:
    """An error of the document or its variables."""
    facts = {"code": code, "classification": _CLASSIFICATIONS.get(code) or classification(status), "status": status}
    return {**error.formatted, "extensions": {**facts, "type": "invalid_request_error"}}


def field_error(error: Exception, request_id: str) -> dict[str, Any]:
    """What a field or a stream failed with; what is unexpected is logged, and its client told nothing of it."""
    place: dict[str, Any] = {}
    cause: BaseException = error
    if isinstance(error, GraphQLError):
        place = {name: value for name, value in error.formatted.items() if name in ("locations", "path")}
        if isinstance(error.original_error, (NoneType, StrawberryInputCoercionError)):
            return request_error(error, "graphql_bad_value", 400)  # a value that does not fit the schema
        cause = error.original_error
    reply = error_reply(cause)
    if reply.status == 500:
        _log.error("request %s failed", request_id, exc_info=cause)
    parameter = None if reply.parameter is None else _spelled(reply.parameter)
    facts = error_extensions(reply, request_id, parameter)
    return {"message": _spelled(reply.message), **place, "extensions": facts}


def _spelled(text: str) -> str:
    return _WORD.sub(lambda match: _name(match[0]), text)


def _name(word: str) -> str:
    if word in _OTHERS:
        return _OTHERS[word]
    if word not in _NAMES:
        return word
    first, *rest = word.split("_")
    return first + "".join(part.capitalize() for part in rest)
