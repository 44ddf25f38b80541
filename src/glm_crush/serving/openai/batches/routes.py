"""/v1/batches: create, look at, list, cancel.

Above: `stored.py`. Below: the store and the runner, which are opened with the first request.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.errors import ApiError
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openai.listing import page_object, page_query
from glm_crush.serving.openai.metadata import check_metadata
from glm_crush.serving.openai.replies import PAGE_QUERY, Batch, BatchPage
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute
from glm_crush.serving.tenant import key_of, tenant_of

if TYPE_CHECKING:
    from glm_crush.serving.in_process import InProcessCaller
    from glm_crush.serving.openai.batches.runner import BatchRunner
    from glm_crush.serving.openai.batches.store import BatchStore, StoredBatch
    from glm_crush.serving.openai.files.store import FileStore

__all__ = ["BatchRequest", "OpenBatches", "batch_routes"]

_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST_WINDOW = 30 * 86400
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class OutputExpiry(StrictModel):
    """When the files of results expire."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


class BatchRequest(StrictModel):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: Annotated[str, Field(json_schema_extra={"enum": list(_ENDPOINTS)})]
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None


@dataclass(frozen=True)
class OpenBatches:
    """What the routes work with."""

    batches: BatchStore
    files: FileStore
    runner: BatchRunner
    caller: InProcessCaller


def batch_routes(open_batches: Callable[[], Awaitable[OpenBatches]]) -> list[ApiRoute]:
    """The routes of batches."""
    routes = _Batches(open_batches)
    path = "/v1/batches/{batch_id}"
    return [
        (
            Endpoint("POST", "/v1/batches", "Run the requests of a file in idle time.", BatchRequest, reply=Batch),
            routes.create,
        ),
        (Endpoint("GET", "/v1/batches", "The batches there are.", reply=BatchPage, query=PAGE_QUERY), routes.list),
        (Endpoint("POST", f"{path}/cancel", "Stop a batch; what is done stays.", reply=Batch), routes.cancel),
        (Endpoint("GET", path, "One batch.", reply=Batch), routes.retrieve),
    ]


class _Batches:
    def __init__(self, open_batches: Callable[[], Awaitable[OpenBatches]]) -> None:
        self._open = open_batches

    async def create(self, http: Request) -> Response:
        request = await read_request(BatchRequest, http)
        opened = await self._open()
        tenant = tenant_of(http)
        if request.endpoint not in _ENDPOINTS or not opened.caller.serves(request.endpoint):
            served = ", ".join(endpoint for endpoint in _ENDPOINTS if opened.caller.serves(endpoint))
            raise InvalidParameterError(f"endpoint is {request.endpoint!r:.80}; give {served}", parameter="endpoint")
        check_metadata(request.metadata or {})
        window = _window(request.completion_window)
        await _check_file(opened.files, tenant, request.input_file_id)
        # A key for files alone must not get at the models by way of a batch.
        (await opened.caller.admit(key_of(http), request.endpoint)).close(200)
        from glm_crush.serving.openai.batches.store import StoredBatch

        now = opened.batches.now()
        batch = StoredBatch(
            id=f"batch_{uuid.uuid4().hex}",
            tenant=tenant,
            key_id=key_of(http),
            created_at=now,
            expires_at=now + window,
            status="validating",
            endpoint=request.endpoint,
            input_file_id=request.input_file_id,
            request=request.model_dump(mode="json", exclude_none=True),
        )
        await opened.batches.add(batch)
        opened.runner.wake()
        return json_response(batch_object(batch))

    async def list(self, http: Request) -> Response:
        query = page_query(http, default_limit=20, most=100)
        page = await (await self._open()).batches.page(tenant_of(http), query)
        return json_response(page_object([batch_object(batch) for batch in page.items], has_more=page.has_more))

    async def retrieve(self, http: Request) -> Response:
        return json_response(batch_object(await _find(await self._open(), http)))

    async def cancel(self, http: Request) -> Response:
        opened = await self._open()
        batch = await _find(opened, http)
        running = ("validating", "in_progress", "finalizing")
        if batch.status not in (*running, "cancelling", "cancelled"):
            raise InvalidParameterError(
                f"the batch is {batch.status}, which is its end; there is nothing to cancel", parameter="batch_id"
            )
        cancelled = await opened.batches.set_status(batch.id, "cancelling", instead_of=running)
        opened.runner.wake()
        return json_response(batch_object(cancelled or await _find(opened, http)))


async def _find(opened: OpenBatches, http: Request) -> StoredBatch:
    batch_id = http.path_params["batch_id"]
    batch = await opened.batches.find(tenant_of(http), batch_id)
    if batch is None:
        raise ApiError(404, f"there is no batch {batch_id!r:.80}; GET /v1/batches lists them", code="not_found")
    return batch


async def _check_file(files: FileStore, tenant: str, file_id: str) -> None:
    try:
        file = await files.find(tenant, file_id)
    except ApiError as error:
        raise InvalidParameterError(f"input_file_id: {error}", parameter="input_file_id") from error
    if file.purpose != "batch":
        raise InvalidParameterError(
            f"the file {file_id:.80} was uploaded for {file.purpose}; upload it with the purpose batch",
            parameter="input_file_id",
        )


def _window(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 60 <= seconds <= _LONGEST_WINDOW:
        raise InvalidParameterError(
            f"completion_window is {text!r:.40}; give 24h, or another time from 1m to 30d",
            parameter="completion_window",
        )
    return float(seconds)


def batch_object(batch: StoredBatch) -> dict[str, Any]:
    """OpenAI's batch object."""
    usage = batch.usage
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if batch.errors is None else {"object": "list", "data": list(batch.errors)},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.request["completion_window"],
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{f"{name}_at": int(batch.times[f"{name}_at"]) if f"{name}_at" in batch.times else None for name in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": usage["input_tokens"],
            "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
            "output_tokens": usage["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]},
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
        },
        "metadata": batch.request.get("metadata"),
    }
