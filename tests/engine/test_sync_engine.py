"""Plain calls: batches, streams, threads that share the steps."""

from __future__ import annotations

import threading

import pytest

from glm_crush.engine.sync_engine import SyncEngine
from glm_crush.errors import ContextLengthError, EngineError, InvalidParameterError
from glm_crush.types import RequestOutput
from tests.engine.scripted import VOCAB_SIZE, ScriptedExecutor, greedy, logits_for, make_engine, run, sampled

count_up = logits_for(lambda context: (context[-1] + 1) % VOCAB_SIZE)


def make_sync(**options) -> SyncEngine:
    return SyncEngine(make_engine(**options), max_in_flight=4)


def test_more_prompts_than_the_queue_holds_are_finished_in_order():
    engine = make_sync(logits=count_up, max_queue_size=2, max_num_seqs=2)
    outputs = engine.run([([number], greedy(max_tokens=2)) for number in range(20)])
    assert [output.outputs[0].token_ids for output in outputs] == [(n + 1, n + 2) for n in range(20)]


def test_one_impossible_prompt_refuses_all_before_anything_is_computed():
    executor = ScriptedExecutor()
    engine = make_sync(executor=executor)
    with pytest.raises(ContextLengthError):
        engine.run([([1], greedy()), ([1] * 500, greedy())])
    assert executor.steps == []


def test_a_stream_gives_the_pieces_of_the_reply():
    deltas = list(make_sync(logits=count_up).stream([0], greedy(max_tokens=3)))
    assert [delta.text for delta in deltas] == ["b", "c", "d"]


def test_a_stream_refuses_when_it_is_asked_for_and_not_later():
    with pytest.raises(InvalidParameterError):
        make_sync().stream([], greedy())


def test_closing_a_stream_ends_its_request():
    engine = make_sync()
    stream = engine.stream([0], greedy(max_tokens=50))
    next(stream)
    stream.close()
    assert engine.metrics.num_finished["abort"] == 1


def test_a_stream_that_is_never_read_is_never_queued():
    engine = make_sync()
    engine.stream([0], greedy())
    engine.run([([1], greedy(max_tokens=1))])
    assert engine.metrics.num_started == 1


def test_prompts_that_find_the_queue_full_of_a_stream_nobody_reads_are_finished():
    engine = make_sync(logits=count_up, max_queue_size=1, max_num_seqs=1)
    stream = engine.stream([0], greedy(n=2, max_tokens=5))
    next(stream)  # from here on its second reply waits
    assert engine.run([([7], greedy(max_tokens=2))])[0].outputs[0].token_ids == (8, 9)
    assert len(list(stream)) == 9


def test_two_streams_read_in_turn_share_the_steps():
    executor = ScriptedExecutor(logits=count_up)
    engine = make_sync(executor=executor)
    first, second = engine.stream([0], greedy(max_tokens=4)), engine.stream([10], greedy(max_tokens=4))
    pairs = list(zip(first, second, strict=True))
    assert [(a.text, b.text) for a, b in pairs] == [("b", "l"), ("c", "m"), ("d", "n"), ("e", "o")]
    assert len(executor.steps) == 5


@pytest.mark.requirement("E8")
def test_threads_that_ask_at_once_each_get_their_own_replies():
    prompts = [[number, 3] for number in range(6)]
    expected = [run(make_engine(), (prompt, sampled(seed=2)))[0].outputs for prompt in prompts]
    engine = make_sync()
    results: dict[int, RequestOutput] = {}

    def ask(number: int) -> None:
        results[number] = engine.run([(prompts[number], sampled(seed=2))])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [results[number].outputs for number in range(6)] == expected


def test_a_failed_step_reaches_the_caller_and_later_ones():
    def fail() -> None:
        raise ValueError("kernel on fire")

    engine = make_sync(executor=ScriptedExecutor(before_step=fail))
    for _ in range(2):
        with pytest.raises(EngineError, match="kernel on fire"):
            engine.run([([1], greedy())])


def test_after_close_calls_say_that_the_model_is_closed():
    engine = make_sync()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="has been closed"):
        engine.run([([1], greedy())])
