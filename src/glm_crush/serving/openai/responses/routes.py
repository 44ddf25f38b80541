"""/v1/responses: create, retrieve, follow, cancel, delete, list what went in.

Above: `stored.py`. Below: the service, which is opened with the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.errors import error_reply
from glm_crush.serving.event_stream import EventStream, run_until_disconnect
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.openai.listing import page_object, page_query, query_parameters
from glm_crush.serving.openai.replies import PAGE_QUERY, Deleted, InputItemPage, InputTokens, ResponseObject
from glm_crush.serving.openai.responses.items import Item
from glm_crush.serving.openai.responses.protocol import ResponseInput, ResponseRequest
from glm_crush.serving.openai.responses.run import Run
from glm_crush.serving.openai.responses.turn import check_include
from glm_crush.serving.openai.responses.writer import encode_event
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.tenant import key_of, tenant_of

if TYPE_CHECKING:
    from glm_crush.serving.openai.responses.service import ResponseService
    from glm_crush.serving.openai.responses.store import StoredResponse

__all__ = ["response_routes"]

OpenService = Callable[[], Awaitable["ResponseService"]]

# How long a stream waits for the engine's refusal, which is an error of its own status only before the first event.
_REFUSAL_SECONDS = 0.1
_POLL_SECONDS = 0.5


def response_routes(open_service: OpenService, *, ping_interval_seconds: float) -> list[ApiRoute]:
    """The routes of responses."""
    routes = _Responses(open_service, ping_interval_seconds)
    path = "/v1/responses/{response_id}"
    return [
        (
            Endpoint("POST", "/v1/responses", "Answer input items.", ResponseRequest, True, reply=ResponseObject),
            routes.create,
        ),
        (
            Endpoint(
                "POST",
                "/v1/responses/input_tokens",
                "Count the tokens of a prompt without answering it.",
                ResponseInput,
                reply=InputTokens,
            ),
            routes.input_tokens,
        ),
        (
            Endpoint("POST", f"{path}/cancel", "Cancel a response in the background.", reply=ResponseObject),
            routes.cancel,
        ),
        (
            Endpoint(
                "GET", f"{path}/input_items", "What a response was made from.", reply=InputItemPage, query=PAGE_QUERY
            ),
            routes.input_items,
        ),
        (
            Endpoint("GET", path, "A stored response, or its events.", streams=True, reply=ResponseObject),
            routes.retrieve,
        ),
        (Endpoint("DELETE", path, "Delete a response.", reply=Deleted), routes.delete),
    ]


class _Responses:
    def __init__(self, open_service: OpenService, ping_interval_seconds: float) -> None:
        self._open = open_service
        self._ping_interval = ping_interval_seconds

    async def create(self, http: Request) -> Response:
        request = await read_request(ResponseRequest, http)
        run = await (await self._open()).create(request, tenant_of(http), key_of(http))
        if request.stream:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.begun.wait(), _REFUSAL_SECONDS)
            if run.refusal is not None:
                raise run.refusal
            events = run.follow() if request.background else _until_closed(run)
            return self._stream(events)
        if request.background:
            return json_response(run.body)
        try:
            await run_until_disconnect(run.wait(), http.receive)
        finally:
            gone = not run.is_done
            if gone:
                await run.cancel()
        return Response(status_code=499) if gone else json_response(run.body)

    async def input_tokens(self, http: Request) -> Response:
        request = await read_request(ResponseInput, http)
        count = await (await self._open()).count_input(request, tenant_of(http))
        return json_response({"object": "response.input_tokens", "input_tokens": count})

    async def retrieve(self, http: Request) -> Response:
        given = query_parameters(http, {"stream", "starting_after", "include", "include[]", "include_obfuscation"})
        check_include(http.query_params.getlist("include") + http.query_params.getlist("include[]"))
        after = _starting_after(given.get("starting_after"))
        service, tenant, response_id = await self._open(), tenant_of(http), http.path_params["response_id"]
        response = await service.find(tenant, response_id)
        run = service.live(response_id)
        if given.get("stream") != "true":
            if after is not None:
                raise InvalidParameterError(
                    "starting_after is given but stream is not true", parameter="starting_after"
                )
            return json_response(response.body if run is None else run.body)
        if not (response.background and response.request.get("stream")):
            raise InvalidParameterError(
                "only a response that was created with background and stream can be followed; "
                "retrieve it without stream",
                parameter="stream",
            )
        position = -1 if after is None else after
        if run is not None:
            return self._stream(run.follow(position))
        return self._stream(_stored_events(service, tenant, response, position))

    async def cancel(self, http: Request) -> Response:
        service = await self._open()
        return json_response(await service.cancel(tenant_of(http), http.path_params["response_id"]))

    async def delete(self, http: Request) -> Response:
        response_id = http.path_params["response_id"]
        await (await self._open()).delete(tenant_of(http), response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, http: Request) -> Response:
        query = page_query(http, default_limit=20, most=100, others={"include", "include[]"})
        check_include(http.query_params.getlist("include") + http.query_params.getlist("include[]"))
        items = await (await self._open()).input_items(tenant_of(http), http.path_params["response_id"])
        page, has_more = _page(items if query.order == "asc" else items[::-1], query.after, query.limit)
        return json_response(page_object(page, has_more=has_more))

    def _stream(self, events: AsyncGenerator[bytes, None]) -> Response:
        return EventStream(events, encode_error=_error_event, ping_interval_seconds=self._ping_interval)


async def _until_closed(run: Run) -> AsyncGenerator[bytes, None]:
    """The events of a response that ends when its client goes away."""
    try:
        async for event in run.follow():
            yield event
    finally:
        if not run.is_done:
            await run.cancel()


async def _stored_events(
    service: ResponseService, tenant: str, response: StoredResponse, after: int
) -> AsyncGenerator[bytes, None]:
    """The events of a response that has ended, or that another server works on: they come when it has ended."""
    while response.is_working:
        await asyncio.sleep(_POLL_SECONDS)
        response = await service.find(tenant, response.id)
    events = [event.encode() for event in response.events or ()]
    if not events:  # its server stopped, and the events with it: what is left is how it ended
        kind = "response.failed" if response.status == "failed" else "response.incomplete"
        events = [encode_event({"type": kind, "sequence_number": after + 1, "response": response.body})]
        after = -1
    for event in events[after + 1 :]:
        yield event


def _starting_after(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidParameterError(
            f"starting_after is {text!r:.40}; give the sequence_number of the last event you have",
            parameter="starting_after",
        )
    return int(text)


def _page(items: Sequence[Item], after: str | None, limit: int) -> tuple[Sequence[Item], bool]:
    start = 0
    if after is not None:
        places = [index for index, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidParameterError(f"after is {after!r:.80}, which is not in this list", parameter="after")
        start = places[0] + 1
    return items[start : start + limit], len(items) > start + limit


def _error_event(error: Exception) -> bytes:
    reply = error_reply(error)
    event: dict[str, Any] = {"type": "error", "code": reply.code, "message": reply.message, "param": reply.parameter}
    return encode_event({**event, "sequence_number": 0})
