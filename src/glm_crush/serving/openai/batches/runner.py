"""Runs batches in idle time: a few lines at once, and none begins while clients wait.

Above: `stored.py`. Below: the application's own routes, called in this process at the lowest priority. One task looks
after leases, cancellations and time limits; each batch has a task, and each line that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import BinaryIO

from glm_crush.errors import StorageError
from glm_crush.serving.errors import ApiError
from glm_crush.serving.in_process import InProcessCaller
from glm_crush.serving.openai.batches.lines import BatchLine, check_input, read_lines
from glm_crush.serving.openai.batches.results import line_result, write_results
from glm_crush.serving.openai.batches.store import BatchStore, StoredBatch
from glm_crush.serving.openai.files.store import FileStore
from glm_crush.serving.priority import IDLE_PRIORITY, at_priority

__all__ = ["BatchRunner"]

_IDLE_CHECK_SECONDS = 0.05
# Under clients that never pause, a line is begun this often all the same: at the lowest priority it takes little.
_PATIENCE_SECONDS = 10.0
_RETRY_STATUSES = (429, 503)
_LONGEST_RETRY_SECONDS = 60.0
_PIECE = 64

_log = logging.getLogger("glm_crush.serving")


class _Work:
    """A batch at work here. `ending` is set when it must not go on: the status it ends with."""

    def __init__(self, batch: StoredBatch) -> None:
        self.batch = batch
        self.ending: str | None = None
        self.lines: set[asyncio.Task[None]] = set()
        self.task: asyncio.Task[None] | None = None

    def end(self, status: str) -> None:
        """Stop its lines; what they had not finished is not done."""
        self.ending = self.ending or status
        for line in self.lines:
            line.cancel()


class BatchRunner:
    """All batches that this server works on.

    Args:
        batches, files: what is kept.
        caller: the application.
        num_clients: how many requests hold a model now, lines of batches included.
        concurrency: lines that run at the same time.
    """

    def __init__(
        self,
        batches: BatchStore,
        files: FileStore,
        caller: InProcessCaller,
        *,
        num_clients: Callable[[], int],
        concurrency: int,
    ) -> None:
        self._batches = batches
        self._files = files
        self._caller = caller
        self._num_clients = num_clients
        self._slots = asyncio.Semaphore(concurrency)
        self._num_running = 0
        self._works: dict[str, _Work] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There is something new; the first call starts the runner, on behalf of nobody."""
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())

    async def close(self) -> None:
        """Stop; what is not finished is left for the next server, at once."""
        ids = list(self._works)
        tasks = [task for task in (self._task, *(work.task for work in self._works.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if ids:
            await self._batches.release(ids)

    async def _run(self) -> None:
        """As long as there is something to do; what comes later wakes it."""
        while self._works or self._wake.is_set():
            self._wake.clear()
            try:
                await self._look_around()
            except StorageError as error:
                _log.error("batches could not be looked after", exc_info=error)
            if self._works:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._batches.lease_seconds / 3)

    async def _look_around(self) -> None:
        """Renew leases, end what is cancelled, expired or lost, and take on what nobody works on."""
        if self._works:
            statuses = await self._batches.renew(set(self._works))
            for batch_id, work in list(self._works.items()):
                if batch_id not in statuses:
                    work.end("lost")
                elif statuses[batch_id] == "cancelling":
                    work.end("cancelled")
                elif self._batches.now() >= work.batch.expires_at:
                    work.end("expired")
        for batch in await self._batches.claim():
            work = _Work(batch)
            self._works[batch.id] = work
            work.task = asyncio.create_task(self._work(work))

    async def _work(self, work: _Work) -> None:
        batch = work.batch
        try:
            if batch.status == "cancelling":
                work.end("cancelled")
            elif self._batches.now() >= batch.expires_at:
                work.end("expired")
            await self._carry_out(work)
        except ApiError as error:  # its input file has been deleted
            await self._fail(batch, str(error))
        except StorageError as error:
            _log.error("batch %s could not go on; it is tried again", batch.id, exc_info=error)
        finally:
            work.end("lost")
            await asyncio.gather(*work.lines, return_exceptions=True)
            del self._works[batch.id]

    async def _carry_out(self, work: _Work) -> None:
        batch = work.batch
        file = await self._files.find(batch.tenant, batch.input_file_id)
        if batch.status == "validating":
            with await self._files.open_content(file) as content:
                report = await asyncio.to_thread(check_input, content, batch.endpoint)
            if report.errors:
                await self._batches.set_status(
                    batch.id, "failed", instead_of=("validating",), errors=report.errors, model=report.model
                )
                return
            begun = await self._batches.set_status(
                batch.id, "in_progress", instead_of=("validating",), total=report.total, model=report.model
            )
            if begun is None:  # cancelled meanwhile
                work.end("cancelled")
        if work.ending is None:
            with await self._files.open_content(file) as content:
                await self._run_lines(work, content)
        if work.ending == "lost":
            return
        if work.ending is None:
            await self._batches.set_status(batch.id, "finalizing", instead_of=("in_progress",))
        content = await self._files.open_content(file)
        await write_results(self._batches, self._files, batch, content, work.ending or "completed")

    async def _run_lines(self, work: _Work, content: BinaryIO) -> None:
        """Begin every line that is not done; wait for all."""
        done = await self._batches.finished_lines(work.batch.id)
        lines = read_lines(content, work.batch.endpoint)
        while piece := await asyncio.to_thread(_next_lines, lines, done):
            for line in piece:
                if not await self._slot(work):
                    break
                self._num_running += 1
                task = asyncio.create_task(self._run_line(work, line))
                work.lines.add(task)
                task.add_done_callback(work.lines.discard)
                task.add_done_callback(self._free_slot)  # also of one that was cancelled before it began
            if work.ending is not None:
                break
        await asyncio.gather(*work.lines, return_exceptions=True)

    async def _slot(self, work: _Work) -> bool:
        """Wait for one of the places for lines, and for an idle moment; False when the batch ends meanwhile."""
        await self._slots.acquire()
        waited = 0.0
        while work.ending is None and self._num_clients() > self._num_running and waited < _PATIENCE_SECONDS:
            await asyncio.sleep(_IDLE_CHECK_SECONDS)
            waited += _IDLE_CHECK_SECONDS
        if work.ending is not None:
            self._slots.release()
            return False
        return True

    async def _run_line(self, work: _Work, line: BatchLine) -> None:
        """Run one line until it has an answer, and store that."""
        batch = work.batch
        with at_priority(IDLE_PRIORITY):
            reply = await self._caller.post(batch.endpoint, line.body, key_id=batch.key_id)
            # Without a time to come back there is none: a request that is larger than a limit of its key.
            while reply.status in _RETRY_STATUSES and reply.retry_after_seconds is not None:
                await asyncio.sleep(min(reply.retry_after_seconds, _LONGEST_RETRY_SECONDS))
                reply = await self._caller.post(batch.endpoint, line.body, key_id=batch.key_id)
        try:
            await self._batches.add_line(batch.id, line_result(line, reply))
        except StorageError as error:
            _log.error("line %d of %s could not be stored; it is run again", line.number, batch.id, exc_info=error)
            work.end("lost")

    def _free_slot(self, _: asyncio.Task[None]) -> None:
        self._num_running -= 1
        self._slots.release()

    async def _fail(self, batch: StoredBatch, message: str) -> None:
        error = {"code": "input_file_gone", "line": None, "message": message, "param": "input_file_id"}
        await self._batches.set_status(
            batch.id, "failed", instead_of=("validating", "in_progress", "finalizing", "cancelling"), errors=[error]
        )


def _next_lines(lines: Iterator[BatchLine], done: set[int]) -> list[BatchLine]:
    """The next few lines that are not done."""
    piece: list[BatchLine] = []
    for line in lines:
        if line.number not in done:
            piece.append(line)
            if len(piece) == _PIECE:
                break
    return piece
