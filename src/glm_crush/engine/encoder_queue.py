"""Texts of many clients, computed together in a thread of its own.

Above: serving. Below: `encoder_runner`. Each native call takes texts from all waiting jobs in turn, so that a client
with one text does not wait for another's thousand.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from glm_crush.engine.closing import close_at_exit
from glm_crush.engine.encoder_runner import EncoderRunner, Float32
from glm_crush.errors import EngineError, GlmError, OverloadedError
from glm_crush.tokenizer.encoded_text import EncodedText

__all__ = ["EncoderQueue"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    """The texts of one request; rows of `results` are filled as they come."""

    texts: Sequence[EncodedText]
    results: Float32
    future: Future[Float32] = field(default_factory=Future)
    num_taken: int = 0
    num_done: int = 0

    @property
    def num_waiting(self) -> int:
        return len(self.texts) - self.num_taken


_Place = tuple[_Job, int]


class EncoderQueue:
    """Owns the thread that calls the runner, from construction until `close`."""

    def __init__(self, runner: EncoderRunner, *, max_queue_size: int) -> None:
        """Args:
        runner: gives one result per text.
        max_queue_size: texts that may wait.
        """
        self._runner = runner
        self._max_queue_size = max_queue_size
        self._condition = threading.Condition()  # guards the next two
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="glm-encoder", daemon=True)
        self._thread.start()
        close_at_exit(self)

    @property
    def is_alive(self) -> bool:
        """Whether new texts are taken."""
        return not self._closing

    @property
    def num_waiting(self) -> int:
        """Texts that no call has taken yet."""
        with self._condition:
            return sum(job.num_waiting for job in self._jobs)

    def submit(self, texts: Sequence[EncodedText]) -> Future[Float32]:
        """Queue texts; the future gives float32 `[len(texts), width]`. Cancelling it drops what has not been computed.

        Raises:
            OverloadedError: too many texts would wait. EngineError: the queue is closed.
        """
        job = _Job(texts, np.empty((len(texts), self._runner.width), np.float32))
        if not texts:
            job.future.set_result(job.results)
            return job.future
        with self._condition:
            if self._closing:
                raise EngineError("the encoder is stopped; no more texts are taken")
            waiting = sum(job.num_waiting for job in self._jobs)
            if waiting > 0 and waiting + len(texts) > self._max_queue_size:
                raise OverloadedError(
                    f"{waiting} texts wait and {len(texts)} would join them; at most {self._max_queue_size} may wait. "
                    "Try again soon."
                )
            self._jobs.append(job)
            self._condition.notify()
        return job.future

    def close(self) -> None:
        """Fail what waits and end the thread; a second call does nothing."""
        with self._condition:
            self._closing = True
            abandoned, self._jobs = list(self._jobs), deque()
            self._condition.notify()
        for job in abandoned:
            _fail(job, EngineError("the encoder was stopped before these texts were computed"))
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while places := self._take():
            try:
                rows = self._runner.run([job.texts[index] for job, index in places])
                for (job, index), row in zip(places, rows, strict=True):
                    job.results[index] = row
                    job.num_done += 1
            except Exception as error:  # noqa: BLE001 - who waits for these is told; nobody waits for a dead thread
                _log.exception("an encoder call failed")
                failure = error if isinstance(error, GlmError) else EngineError(f"the encoder failed: {error!r}")
                for job in _jobs_of(places):
                    self._drop(job, failure)
                continue
            for job in _jobs_of(places):
                if job.num_done == len(job.texts) and job.future.set_running_or_notify_cancel():
                    job.future.set_result(job.results)

    def _take(self) -> list[_Place]:
        """The texts of the next call, from every job in turn; nothing when the queue is closed."""
        with self._condition:
            while not (places := self._places()) and not self._closing:
                self._condition.wait()
            return places

    def _places(self) -> list[_Place]:
        """What may go into one call of all that waits now."""
        places: list[_Place] = []
        tokens = 0
        while self._jobs and len(places) < self._runner.max_batch_texts:
            job = self._jobs[0]
            if job.future.cancelled():
                self._jobs.popleft()
                continue
            length = len(job.texts[job.num_taken].token_ids)
            if places and tokens + length > self._runner.max_batch_tokens:
                break
            places.append((job, job.num_taken))
            tokens += length
            job.num_taken += 1
            self._jobs.rotate(-1)
            if job.num_waiting == 0:
                self._jobs.remove(job)
        return places

    def _drop(self, job: _Job, error: GlmError) -> None:
        with self._condition:
            if job in self._jobs:
                self._jobs.remove(job)
        _fail(job, error)


def _jobs_of(places: Sequence[_Place]) -> list[_Job]:
    return [*dict.fromkeys(job for job, _ in places)]


def _fail(job: _Job, error: GlmError) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
