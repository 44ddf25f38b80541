"""Batches: many requests that are run when nobody waits for an answer.

Above: the two clients, `glm batch`. Below: files and the results of each line.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Unpack

import msgspec

from glm_crush.client import files
from glm_crush.client.batch_result import BatchResult, BatchResultReader
from glm_crush.client.call import Call, Flow, PageCall, Pause, StreamCall, given, place, read_as
from glm_crush.client.chat_options import ChatOptions, CompletionOptions
from glm_crush.client.chats import Messages, chat_body
from glm_crush.client.completions import complete
from glm_crush.client.result import Result
from glm_crush.errors import DeadlineError, InvalidParameterError

__all__ = [
    "Batch",
    "BatchCounts",
    "BatchRequest",
    "cancel",
    "create",
    "get",
    "list_batches",
    "result_calls",
    "submit",
    "wait",
]

_ENDED = ("completed", "failed", "expired", "cancelled")
_IN_MEMORY = 8 * 2**20


class BatchRequest(Result, frozen=True):
    """One request of a batch; `custom_id` finds its result again."""

    custom_id: str
    body: Mapping[str, Any]
    url: str = "/v1/chat/completions"

    @classmethod
    def chat(cls, custom_id: str, messages: Messages, **options: Unpack[ChatOptions]) -> BatchRequest:
        """A chat, as `Client.chat` takes it."""
        return cls(custom_id, chat_body(messages, **options))

    @classmethod
    def complete(cls, custom_id: str, prompt: str, **options: Unpack[CompletionOptions]) -> BatchRequest:
        """A completion, as `Client.complete` takes it."""
        call = complete(prompt, **options)
        return cls(custom_id, call.body or {}, call.path)

    @classmethod
    def embed(cls, custom_id: str, texts: str | Sequence[str], *, model: str | None = None) -> BatchRequest:
        """Vectors of texts."""
        return cls(custom_id, {"input": texts, **given(model=model)}, "/v1/embeddings")

    def line(self) -> bytes:
        """The request as a line of a batch's input."""
        line = {"custom_id": self.custom_id, "method": "POST", "url": self.url, "body": self.body}
        return msgspec.json.encode(line) + b"\n"


class BatchCounts(Result, frozen=True):
    """How many requests there are, and have been answered."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Answered, one way or the other."""
        return self.completed + self.failed


class _Errors(Result, frozen=True):
    data: tuple[Mapping[str, Any], ...] = ()


class Batch(Result, frozen=True):
    """One batch; times in seconds since 1970.

    Attributes:
        status: "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled".
        errors: what is wrong with the input of one that failed.
    """

    id: str
    status: str
    endpoint: str
    input_file_id: str
    created_at: int
    completion_window: str = ""
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    expires_at: int | None = None
    in_progress_at: int | None = None
    completed_at: int | None = None
    request_counts: BatchCounts = BatchCounts()
    errors: _Errors | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in _ENDED

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the input of one that failed, a line for each."""
        rows = () if self.errors is None else self.errors.data
        return tuple(
            f"line {row['line']}: {row['message']}" if row.get("line") else str(row["message"]) for row in rows
        )


def create(
    input_file_id: str,
    *,
    endpoint: str = "/v1/chat/completions",
    completion_window: str = "24h",
    metadata: Mapping[str, str] | None = None,
    output_expires_after_seconds: int | None = None,
) -> Call[Batch]:
    """Run the requests of an uploaded file.

    Args:
        input_file_id: of a file with the purpose "batch".
        endpoint: that of every line.
        completion_window: how long it may take: "24h", or from "1m" to "30d".
        metadata: kept with it.
        output_expires_after_seconds: when the files of results are deleted; left out: never.
    """
    seconds = output_expires_after_seconds
    expiry = None if seconds is None else {"anchor": "created_at", "seconds": seconds}
    body = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
    body |= given(metadata=metadata, output_expires_after=expiry)
    return Call(method="POST", path="/v1/batches", body=body, parse=read_as(Batch), repeatable=False)


def submit(
    requests: Iterable[BatchRequest],
    *,
    filename: str = "requests.jsonl",
    completion_window: str = "24h",
    metadata: Mapping[str, str] | None = None,
) -> Flow[Batch]:
    """Upload requests and run them.

        questions = {"sky": "Why is the sky blue?", "sea": "Why is the sea salty?"}
        batch = client.batches.submit(BatchRequest.chat(name, text) for name, text in questions.items())

    Raises:
        InvalidParameterError: there is none, or they are not all for one endpoint.
    """
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spooled:
        file: Any = spooled
        endpoint = _write(requests, file)
        uploaded = yield from files.upload(file, purpose="batch", filename=filename)
    batch: Batch = yield create(uploaded.id, endpoint=endpoint, completion_window=completion_window, metadata=metadata)
    return batch


def get(batch_id: str) -> Call[Batch]:
    """One batch, with how far it is."""
    return Call(method="GET", path=place("v1", "batches", batch_id), parse=read_as(Batch))


def list_batches(*, page_size: int | None = None, order: str | None = None) -> PageCall[Batch]:
    """All batches, newest first unless `order` is "asc"; pages are fetched as they are needed."""
    return PageCall("/v1/batches", Batch, given(limit=page_size, order=order))


def cancel(batch_id: str) -> Call[Batch]:
    """Stop a batch; what is done stays."""
    return Call(method="POST", path=place("v1", "batches", batch_id, "cancel"), parse=read_as(Batch))


def wait(
    batch_id: str,
    *,
    poll_seconds: float = 1.0,
    timeout_seconds: float | None = None,
    progress: Callable[[Batch], object] | None = None,
) -> Flow[Batch]:
    """Wait until a batch has ended, one way or another.

    Args:
        batch_id: of the batch.
        poll_seconds: how often to look.
        timeout_seconds: None = as long as it takes.
        progress: called with what is there each time.

    Raises:
        DeadlineError: it had not ended after `timeout_seconds`; it goes on.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        batch: Batch = yield get(batch_id)
        if progress is not None:
            progress(batch)
        if batch.has_ended:
            return batch
        if until is not None and time.monotonic() >= until:
            raise DeadlineError(f"{batch_id} is {batch.status} after {timeout_seconds:g} s; wait again, or cancel it")
        yield Pause(poll_seconds)


def result_calls(batch: Batch) -> list[StreamCall[BatchResult, None]]:
    """What to read for the results of a batch: the answers, then the errors, each in the order of the input."""
    ids = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id is not None]
    return [
        StreamCall(
            method="GET", path=place("v1", "files", file_id, "content"), pieces="lines", reader=BatchResultReader
        )
        for file_id in ids
    ]


def _write(requests: Iterable[BatchRequest], file: BinaryIO) -> str:
    """Write the lines; returns their endpoint."""
    endpoint = None
    for request in requests:
        endpoint = endpoint or request.url
        if request.url != endpoint:
            raise InvalidParameterError(
                f"{request.custom_id} is for {request.url}, and others are for {endpoint}; make a batch for each",
                parameter="requests",
            )
        file.write(request.line())
    if endpoint is None:
        raise InvalidParameterError("there are no requests; give at least one", parameter="requests")
    return endpoint
