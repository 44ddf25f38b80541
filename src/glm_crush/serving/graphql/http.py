"""GraphQL over HTTP, by its specification: GET and POST, two media types of responses, and event streams.

Above: `part.py`. Below: the operations. Who asks has been admitted by the middleware. Event streams are those of the
graphql-sse protocol in its mode of distinct connections: one request, one stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.serving.errors import ApiError
from glm_crush.serving.event_stream import EventStream, run_until_disconnect
from glm_crush.serving.gateway.accounts import Accounts
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.errors import DocumentRefused, field_error, refusal
from glm_crush.serving.graphql.media import EVENT_STREAM, JSON, RESPONSE, MediaType, chosen_media_type
from glm_crush.serving.graphql.operation import GraphqlRequest, Operation, Operations, read_parameters
from glm_crush.serving.openai.embeddings import LARGE_REPLY
from glm_crush.serving.served_models import ServedModels

__all__ = ["HttpEndpoint"]

_LARGE_BODY = 100_000  # bytes; less is parsed in about a millisecond
_COMPLETE = b"event: complete\ndata: \n\n"


class HttpEndpoint:
    """Answers HTTP requests.

    Args:
        ping_interval_seconds: see `EventStream`.
    """

    def __init__(
        self, operations: Operations, models: ServedModels, accounts: Accounts, *, ping_interval_seconds: float
    ) -> None:
        self._operations = operations
        self._models = models
        self._accounts = accounts
        self._ping_interval = ping_interval_seconds

    async def answer(self, http: Request) -> Response:
        """One operation.

        Raises:
            ApiError: the request is none of HTTP's: a media type that is not spoken here, a mutation by GET.
        """
        media_type = chosen_media_type(http.headers.get("accept"))
        if media_type is None:
            raise ApiError(406, f"this server answers with {RESPONSE}, {JSON} or {EVENT_STREAM}; accept one of them")
        state = http.scope["state"]
        context = OperationContext(models=self._models, accounts=self._accounts, admission=state["admission"])
        well_formed = False
        try:
            request = await _read(http)
            well_formed = True
            operation = await self._operations.prepare(request, context, state["request_id"])
            _check_method(http, operation, media_type)
        except DocumentRefused as error:
            return _refused(error, media_type, well_formed=well_formed)
        if media_type == EVENT_STREAM:
            return self._stream(_events(operation), state["request_id"])
        response = await run_until_disconnect(operation.result(), http.receive)
        if response is None:
            return Response(status_code=499)
        large = context.num_numbers >= LARGE_REPLY
        body = await asyncio.to_thread(to_json, response) if large else to_json(response)
        return Response(body, media_type=media_type)

    def _stream(self, events: AsyncGenerator[bytes, None], request_id: str) -> Response:
        return EventStream(
            events,
            encode_error=lambda error: _event({"errors": [field_error(error, request_id)]}) + _COMPLETE,
            ping_interval_seconds=self._ping_interval,
        )


async def _read(http: Request) -> GraphqlRequest:
    if http.method != "POST":
        return _read_query(http)
    kind, _, rest = http.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != JSON:
        raise ApiError(415, f"send the operation as {JSON}; the body's type is {kind.strip()[:80] or 'not given'}")
    charset = rest.lower().replace(" ", "").partition("charset=")[2].partition(";")[0].strip('"')
    if charset not in ("", "utf-8", "utf8"):
        raise ApiError(415, f"the body's charset is {charset[:40]}; send utf-8")
    body = await http.body()
    parse = asyncio.to_thread(_parsed, body) if len(body) > _LARGE_BODY else None
    return read_parameters(_parsed(body) if parse is None else await parse, len(body))


def _read_query(http: Request) -> GraphqlRequest:
    parameters: dict[str, Any] = dict(http.query_params)
    for name in ("variables", "extensions"):
        text = parameters.get(name)
        if text is not None:
            parameters[name] = _parsed(text.encode()) if text else None
    return read_parameters(parameters, len(http.url.query))


def _parsed(text: bytes) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise refusal(f"this is not valid JSON: {error}", "graphql_bad_request") from None


def _check_method(http: Request, operation: Operation, media_type: MediaType) -> None:
    """What changes or costs something must not be done by a link; a stream needs a client that reads one."""
    if http.method != "POST" and operation.kind != "query":
        raise ApiError(405, f"a {operation.kind} is not taken by GET; send it with POST", headers={"allow": "POST"})
    if operation.kind == "subscription" and media_type != EVENT_STREAM:
        raise ApiError(
            406, f"a subscription is a stream: accept {EVENT_STREAM}, or connect by WebSocket (graphql-transport-ws)"
        )


def _refused(error: DocumentRefused, media_type: MediaType, *, well_formed: bool) -> Response:
    """With the older media type a status other than 200 says that there was no GraphQL request at all."""
    response = {"errors": error.formatted()}
    if media_type == EVENT_STREAM and well_formed:
        return Response(_event(response) + _COMPLETE, media_type=EVENT_STREAM)
    status = 200 if media_type == JSON and well_formed else error.status
    return Response(
        to_json(response), status_code=status, media_type=JSON if media_type == EVENT_STREAM else media_type
    )


async def _events(operation: Operation) -> AsyncGenerator[bytes, None]:
    responses = operation.results()
    try:
        async for response in responses:
            yield _event(response)
    finally:
        await responses.aclose()
    yield _COMPLETE


def _event(response: dict[str, Any]) -> bytes:
    return b"event: next\ndata: " + to_json(response) + b"\n\n"
