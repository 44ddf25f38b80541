"""From the stored lines of a batch to its output file and its error file.

Above: the runner. Below: the stores of batches and files.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from pydantic_core import to_json

from glm_crush.serving.in_process import InProcessReply
from glm_crush.serving.openai.batches.lines import BatchLine, read_lines
from glm_crush.serving.openai.batches.store import BatchStore, LineResult, StoredBatch
from glm_crush.serving.openai.files.store import FileStore, StoredFile

__all__ = ["line_result", "write_results"]

_PAGE = 200
_LEFT_OUT = {
    "expired": ("batch_expired", "the batch's completion window ended before this request was run"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was run"),
}


def line_result(line: BatchLine, reply: InProcessReply) -> LineResult:
    """The result of a line that was run."""
    response = {"status_code": reply.status, "request_id": reply.request_id, "body": reply.body}
    failed = reply.status != 200
    usage = {} if failed else _usage(reply.body)
    return LineResult(line.number, failed, _record(line.custom_id, response, None), usage)


async def write_results(
    batches: BatchStore, files: FileStore, batch: StoredBatch, content: BinaryIO, status: str
) -> None:
    """Write the files and end the batch with this status: completed, expired or cancelled.

    Raises:
        StorageError: the files could not be written; nothing has changed.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(content)
        output = stack.enter_context(await files.writer())
        errors = stack.enter_context(await files.writer())
        num_output = num_failed = num_left_out = 0
        async for record in _records(batches, batch, failed=False):
            await asyncio.to_thread(output.write, record)
            num_output += 1
        async for record in _records(batches, batch, failed=True):
            await asyncio.to_thread(errors.write, record)
            num_failed += 1
        if status in _LEFT_OUT:
            done = await batches.finished_lines(batch.id)
            num_left_out = await asyncio.to_thread(_write_left_out, errors, content, batch, done, status)
        await stack.enter_async_context(files.placing)
        await batches.finish(
            batch,
            status,
            output=await _place(files, output, batch, "output") if num_output else None,
            errors=await _place(files, errors, batch, "errors") if num_failed + num_left_out else None,
            failed=num_left_out,
        )


async def _records(batches: BatchStore, batch: StoredBatch, *, failed: bool) -> AsyncIterator[bytes]:
    after = 0
    while page := await batches.records(batch.id, failed=failed, after=after, limit=_PAGE):
        yield "".join(f"{record}\n" for _, record in page).encode()
        after = page[-1][0]


def _write_left_out(errors: Any, content: BinaryIO, batch: StoredBatch, done: set[int], status: str) -> int:
    code, message = _LEFT_OUT[status]
    number = 0
    content.seek(0)
    for line in read_lines(content, batch.endpoint):
        if line.number not in done:
            errors.write(to_json(_record(line.custom_id, None, {"code": code, "message": message})) + b"\n")
            number += 1
    return number


async def _place(files: FileStore, writer: Any, batch: StoredBatch, kind: str) -> StoredFile:
    after = batch.request.get("output_expires_after")
    return await files.place(
        writer,
        tenant=batch.tenant,
        purpose="batch_output",
        filename=f"{batch.id}_{kind}.jsonl",
        lifetime_seconds=None if after is None else float(after["seconds"]),
    )


def _record(custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> Mapping[str, Any]:
    return {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}


def _usage(body: Any) -> Mapping[str, int]:
    """Token counts of a reply of any of the endpoints."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return {}
    prompt_details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    reply_details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens", 0)),
        "cached_tokens": prompt_details.get("cached_tokens", 0),
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens", 0)),
        "reasoning_tokens": reply_details.get("reasoning_tokens", 0),
    }
