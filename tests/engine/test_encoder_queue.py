"""Texts of many clients share native calls, fairly and within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from glm_crush.engine.encoder_queue import EncoderQueue
from glm_crush.errors import EngineError, KernelError, OverloadedError
from tests.engine.tiny_encoders import CountingExecutor, counting_runner, encoded

pytestmark = pytest.mark.requirement("E12")


@contextmanager
def queue_over(
    executor: CountingExecutor, *, max_queue_size: int = 100, max_tokens: int = 10
) -> Iterator[EncoderQueue]:
    queue = EncoderQueue(counting_runner(executor, max_tokens=max_tokens), max_queue_size=max_queue_size)
    try:
        yield queue
    finally:
        executor.gate.set()
        queue.close()


def test_results_come_in_the_order_of_the_texts_however_many_calls_it_takes() -> None:
    executor = CountingExecutor()
    with queue_over(executor) as queue:
        rows = queue.submit(encoded((1, 4), (2, 4), (3, 4), (4, 12), (5, 1))).result(20)
    assert rows.tolist() == [[1, 4], [2, 4], [3, 4], [4, 12], [5, 1]]
    assert executor.calls == [[4, 4], [4], [12], [1]]  # ten tokens a call; a longer text goes alone


def test_a_small_job_does_not_wait_for_all_of_a_large_one() -> None:
    executor = CountingExecutor()
    executor.gate.clear()
    with queue_over(executor) as queue:
        first = queue.submit(encoded((9, 1)))
        assert executor.entered.wait(20)
        large = queue.submit(encoded(*((index, 2) for index in range(20))))
        small = queue.submit(encoded((50, 3)))
        executor.gate.set()
        assert small.result(20).tolist() == [[50, 3]]
        assert first.result(20).tolist() == [[9, 1]]
        assert large.result(20)[19].tolist() == [19, 2]
    assert executor.calls[1] == [2, 3, 2, 2]  # of both in turn


def test_a_cancelled_job_is_not_computed() -> None:
    executor = CountingExecutor()
    executor.gate.clear()
    with queue_over(executor) as queue:
        first = queue.submit(encoded((1, 1)))
        assert executor.entered.wait(20)
        unwanted, wanted = queue.submit(encoded((2, 10), (3, 10))), queue.submit(encoded((4, 10)))
        assert unwanted.cancel()
        executor.gate.set()
        assert wanted.result(20).tolist() == [[4, 10]]
        assert first.result(20).tolist() == [[1, 1]]
    assert executor.calls == [[1], [10]]


def test_more_texts_than_may_wait_are_refused_with_the_numbers() -> None:
    executor = CountingExecutor()
    executor.gate.clear()
    with queue_over(executor, max_queue_size=3) as queue:
        queue.submit(encoded((1, 1)))
        assert executor.entered.wait(20)
        queue.submit(encoded((2, 1), (3, 1)))
        with pytest.raises(OverloadedError, match="2 texts wait and 2 would join them; at most 3 may wait"):
            queue.submit(encoded((4, 1), (5, 1)))
        assert queue.num_waiting == 2


def test_a_job_larger_than_the_queue_is_taken_when_nobody_waits() -> None:
    executor = CountingExecutor()
    with queue_over(executor, max_queue_size=1) as queue:
        assert len(queue.submit(encoded(*((1, 1) for _ in range(9)))).result(20)) == 9


def test_an_error_of_the_executor_reaches_its_jobs_and_the_queue_goes_on() -> None:
    executor = CountingExecutor(error=KernelError("too wide"))
    with queue_over(executor) as queue:
        with pytest.raises(KernelError, match="too wide"):
            queue.submit(encoded((1, 8), (2, 8))).result(20)
        executor.error = None
        assert queue.submit(encoded((3, 1))).result(20).tolist() == [[3, 1]]


def test_any_other_error_reaches_its_jobs_too_and_the_queue_goes_on() -> None:
    executor = CountingExecutor(error=MemoryError("std::bad_alloc"))
    with queue_over(executor) as queue:
        with pytest.raises(EngineError, match=r"the encoder failed: MemoryError\('std::bad_alloc'\)"):
            queue.submit(encoded((1, 8), (2, 8))).result(20)
        executor.error = None
        assert queue.submit(encoded((3, 1))).result(20).tolist() == [[3, 1]]


def test_a_closed_queue_fails_what_waits_and_takes_no_more() -> None:
    executor = CountingExecutor()
    executor.gate.clear()
    queue = EncoderQueue(counting_runner(executor), max_queue_size=10)
    queue.submit(encoded((1, 10)))
    assert executor.entered.wait(20)
    waiting = queue.submit(encoded((2, 10)))
    executor.gate.set()
    queue.close()
    queue.close()
    assert not queue.is_alive
    if not waiting.done() or waiting.exception() is not None:
        with pytest.raises(EngineError, match="stopped"):
            waiting.result(0)
    with pytest.raises(EngineError, match="no more texts are taken"):
        queue.submit(encoded((3, 1)))


def test_no_texts_give_no_rows() -> None:
    with queue_over(CountingExecutor()) as queue:
        assert queue.submit([]).result(0).shape == (0, 2)
