"""Beam search: the policy by itself, then over an engine, against a search through every reply there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush.engine.beam_search import Beam, BeamSearch
from glm_crush.engine.engine import Engine
from glm_crush.engine.output import OutputCollector
from glm_crush.errors import ContextLengthError, InvalidParameterError
from glm_crush.types import RequestOutput, SamplingParams
from tests.engine.drafters import KnownReplies
from tests.engine.scripted import ScriptedExecutor, make_engine, run, run_deltas, sampled

pytestmark = pytest.mark.requirement("E1")

STOP = 0
Logprobs = Callable[[Sequence[int]], list[float]]


def table(**rows: dict[str, float]) -> Logprobs:
    """Probabilities by the reply so far, as letters: "" is its start, 0 is the token a."""

    def logprobs(reply: Sequence[int]) -> list[float]:
        row = rows["".join(chr(97 + token) for token in reply) or "start"]
        return [math.log(row[letter]) if row.get(letter) else -math.inf for letter in "abc"]

    return logprobs


def search(logprobs: Logprobs, **options: object) -> list[Beam]:
    """Run the policy to its end; returns the finished replies."""
    beams = BeamSearch(**{"width": 2, "max_tokens": 3, "stop_token_ids": [STOP], **options})  # type: ignore[arg-type]
    while not beams.done:
        rows = [logprobs([token.token_id for token in beam.tokens]) for beam in beams.live]
        beams.advance([sorted(enumerate(row), key=lambda item: -item[1])[: beams.num_candidates] for row in rows])
    return beams.finished


def ids(beam: Beam) -> list[int]:
    return [token.token_id for token in beam.tokens]


GARDEN = table(
    start={"a": 0.1, "b": 0.5, "c": 0.4},
    b={"a": 0.3, "b": 0.35, "c": 0.35},
    c={"a": 0.9, "b": 0.05, "c": 0.05},
    bb={"a": 0.4, "b": 0.3, "c": 0.3},
    bc={"a": 0.4, "b": 0.3, "c": 0.3},
    cb={"a": 1.0},
    cc={"a": 1.0},
)


def test_a_likelier_reply_is_found_behind_a_less_likely_first_token() -> None:
    assert [ids(beam) for beam in search(GARDEN, length_penalty=0.0)] == [[2, 0], [1, 1, 0]]


def test_the_length_penalty_favours_longer_or_shorter_replies() -> None:
    by_penalty = {penalty: ids(search(GARDEN, length_penalty=penalty)[0]) for penalty in (-2.0, 0.0, 6.0)}
    assert by_penalty == {-2.0: [2, 0], 0.0: [2, 0], 6.0: [1, 1, 0]}


def test_early_stopping_ends_with_as_many_replies_as_beams() -> None:
    # Two replies end at two tokens; the longer ones behind them rank higher only if somebody waits for them.
    both = table(
        start={"b": 0.5, "c": 0.5},
        **{first: {"a": 0.8, "b": 0.1, "c": 0.1} for first in "bc"},
        **{first + second: {"a": 1.0} for first in "bc" for second in "bc"},
    )
    lengths = {how: [len(ids(beam)) for beam in search(both, early_stopping=how)] for how in (True, False, "never")}
    assert lengths == {True: [2, 2], False: [2, 2], "never": [2, 2]}
    lengths = {
        how: [len(ids(beam)) for beam in search(both, early_stopping=how, length_penalty=9.0)]
        for how in (True, False, "never")
    }
    assert lengths == {True: [2, 2], False: [2, 2], "never": [3, 3]}


def test_at_the_limit_every_beam_ends_and_says_that_it_did_not_stop() -> None:
    assert [(ids(beam), beam.stopped) for beam in search(GARDEN, stop_token_ids=[], max_tokens=2)] == [
        ([2, 0], False),
        ([1, 1], False),
    ]


def test_no_beam_stops_before_min_tokens() -> None:
    assert all(len(ids(beam)) == 3 for beam in search(GARDEN, min_tokens=2))


def test_equal_sums_go_to_the_lower_beam_and_the_lower_token() -> None:
    even = search(lambda reply: [math.log(0.25)] * 4, width=3, stop_token_ids=[], max_tokens=2)
    assert [ids(beam) for beam in even] == [[0, 0], [0, 1], [0, 2]]


def random_table(seed: int, vocab_size: int) -> Logprobs:
    def logprobs(reply: Sequence[int]) -> list[float]:
        logits = np.random.default_rng([seed, *reply]).normal(0, 2, vocab_size)
        return [float(x) for x in logits - np.logaddexp.reduce(logits)]

    return logprobs


def every_reply(
    logprobs: Logprobs, vocab_size: int, max_tokens: int, stop: set[int]
) -> list[tuple[float, tuple[int, ...]]]:
    """All replies with their log-probability: those that stop, and those that reach the limit."""
    found = []
    for length in range(1, max_tokens + 1):
        for reply in itertools.product(range(vocab_size), repeat=length):
            if stop & set(reply[:-1]) or (length < max_tokens and reply[-1] not in stop):
                continue
            found.append((sum(logprobs(reply[:i])[reply[i]] for i in range(length)), reply))
    return found


@given(seed=st.integers(0, 10_000), penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]), n=st.integers(1, 4))
def test_beams_wide_enough_find_what_a_search_through_every_reply_finds(seed: int, penalty: float, n: int) -> None:
    logprobs = random_table(seed, 3)
    found = search(logprobs, width=81, max_tokens=4, length_penalty=penalty, early_stopping="never")
    best = sorted(every_reply(logprobs, 3, 4, {STOP}), key=lambda item: -item[0] / len(item[1]) ** penalty)
    assert [tuple(ids(beam)) for beam in found[:n]] == [reply for _, reply in best[:n]]
    assert found[0].score == pytest.approx(best[0][0] / len(best[0][1]) ** penalty)


def beams(width: int, max_tokens: int = 6, **overrides: object) -> SamplingParams:
    return SamplingParams(beam_width=width, max_tokens=max_tokens, **{"n": width, **overrides})  # type: ignore[arg-type]


PROMPT = list(range(10))


def by_hand(prompt: Sequence[int], width: int, max_tokens: int, stop: Sequence[int], **options: object) -> list[Beam]:
    """The policy over the scripted executor's logits, without an engine."""
    from tests.engine.scripted import random_logits

    def logprobs(reply: Sequence[int]) -> list[float]:
        logits = random_logits([*prompt, *reply]).astype(np.float64)
        return [float(x) for x in logits - np.logaddexp.reduce(logits)]

    return search(logprobs, width=width, max_tokens=max_tokens, stop_token_ids=stop, **options)


def replies(output: RequestOutput) -> list[tuple[tuple[int, ...], float | None]]:
    return [(reply.token_ids, reply.score) for reply in output.outputs]


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_an_engine_finds_the_same_beams_and_computes_the_prompt_once(width: int, prefix_cache: bool) -> None:
    executor = ScriptedExecutor()
    engine = make_engine(executor=executor, eos_token_ids=[7, 9], prefix_cache=prefix_cache)
    [output] = run(engine, (PROMPT, beams(width)))
    expected = by_hand(PROMPT, width, 6, [7, 9])
    assert [reply.token_ids for reply in output.outputs] == [tuple(ids(beam)) for beam in expected]
    assert [reply.score for reply in output.outputs] == pytest.approx([beam.score for beam in expected], abs=1e-5)
    assert executor.steps[0] == (10, 1)
    assert all(num_tokens <= width for num_tokens, _ in executor.steps[1:])


def test_the_best_replies_come_with_text_reason_and_logprobs() -> None:
    engine = make_engine(eos_token_ids=[7])
    [output] = run(engine, (PROMPT, beams(4, n=2, logprobs=1, prompt_logprobs=0)))
    assert [reply.index for reply in output.outputs] == [0, 1]
    for reply in output.outputs:
        stopped = reply.token_ids[-1] == 7
        assert reply.finish_reason == ("stop" if stopped else "length")
        assert reply.text == "".join(chr(97 + token) for token in reply.token_ids[: -1 if stopped else None])
        assert [token.token_id for token in reply.logprobs] == list(reply.token_ids)
        total = sum(token.logprob for token in reply.logprobs)
        assert reply.score == pytest.approx(total / len(reply.token_ids))
        assert [len(token.top) for token in reply.logprobs] == [1] * len(reply.token_ids)
    assert len(output.prompt_logprobs) == 10
    assert output.usage.completion_tokens == sum(len(reply.token_ids) for reply in output.outputs)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"num_blocks": 26},
        {"num_blocks": 26, "prefix_cache": True},
        {"max_num_seqs": 4},
        {"max_num_seqs": 4, "num_blocks": 21, "prefix_cache": True},
        {"token_budget": 8},
    ],
)
def test_beams_are_bit_equal_alone_together_and_when_room_is_short(limits: dict[str, int]) -> None:
    requests = [
        (PROMPT, beams(4, 9)),
        (list(range(3, 12)), sampled(9, seed=1, n=2)),
        (PROMPT[:7], beams(3, 9)),
        ([*PROMPT[:9], 30], beams(4, 9, length_penalty=0.3)),
        (list(range(20, 29)), sampled(12, seed=2)),
    ]
    alone = [replies(run(make_engine(eos_token_ids=[7]), request)[0]) for request in requests]
    engine = make_engine(eos_token_ids=[7], **limits)
    assert [replies(output) for output in run(engine, *requests)] == alone
    assert engine.scheduler.cache_usage == 0.0


def test_beams_share_their_steps_with_requests_whose_tokens_are_guessed_ahead() -> None:
    requests = [(PROMPT, beams(3, 9)), (list(range(20, 29)), sampled(12, seed=2, n=2)), (PROMPT[:7], beams(2, 9))]
    plain = run(make_engine(eos_token_ids=[7]), *requests)
    drafter = KnownReplies([plain[1]], error=0.3)
    engine = make_engine(eos_token_ids=[7], drafter=drafter, prefix_cache=True)
    assert [replies(output) for output in run(engine, *requests)] == [replies(output) for output in plain]
    assert drafter.drafts


@settings(max_examples=40)
@given(data=st.data())
def test_any_mix_of_beams_replies_and_aborts_in_a_small_cache_ends_and_changes_nothing(data: st.DataObject) -> None:
    limits = {"num_blocks": data.draw(st.integers(14, 30)), "max_num_seqs": data.draw(st.integers(3, 5))}
    engine = make_engine(
        eos_token_ids=[7], prefix_cache=data.draw(st.booleans()), token_budget=data.draw(st.integers(5, 20)), **limits
    )
    collectors, requests = {}, {}
    for i in range(data.draw(st.integers(1, 6))):
        prompt = [*PROMPT[: data.draw(st.integers(1, 9))], 30 + i % 2]
        params = data.draw(st.sampled_from([beams(3, 6), beams(2, 9), sampled(7, seed=i, n=3), sampled(5, seed=i)]))
        try:
            request_id = engine.add_request(
                prompt, params, priority=data.draw(st.integers(0, 1)), tenant=data.draw(st.sampled_from("abc"))
            )
        except ContextLengthError:
            continue
        requests[request_id] = (prompt, params)
        collectors[request_id] = OutputCollector(request_id, prompt, n=params.n)
    aborts = data.draw(st.sets(st.integers(1, 20), max_size=2))
    for number in range(2000):
        if not engine.has_unfinished:
            break
        if number in aborts:
            engine.abort(requests.popitem()[0]) if requests else None
        for delta in engine.step():
            collectors[delta.request_id].add(delta)
        engine.check_integrity()
    assert (engine.has_unfinished, engine.scheduler.cache_usage) == (False, 0.0)
    for request_id, request in requests.items():
        alone = run(make_engine(eos_token_ids=[7]), request)[0]
        assert replies(collectors[request_id].output()) == replies(alone)


def test_beams_that_only_wait_for_one_another_make_room() -> None:
    """Four calls whose beams all lose blocks: nobody is stuck holding what another needs."""
    requests = [([*PROMPT[:5], i], beams(3, 14)) for i in range(4)]
    alone = [replies(run(make_engine(), request)[0]) for request in requests]
    engine = make_engine(num_blocks=19, max_num_seqs=5)
    assert [replies(output) for output in run(engine, *requests)] == alone
    assert engine.metrics.num_preemptions > 0


@pytest.mark.parametrize("stop", [["c"], ["cd", "x"], ["de", "cde"]])
def test_a_stop_text_ends_a_beam_and_is_not_part_of_it(stop: list[str]) -> None:
    """The model counts: a, b, c, d, ...; from time to time it would rather skip a letter."""

    def counting(context: Sequence[int]) -> np.ndarray:
        row = np.full(50, -9.0, np.float32)
        row[(context[-1] + 1) % 26], row[(context[-1] + 2) % 26] = 3.0, 1.0
        return row

    engine = make_engine(logits=counting)
    [output] = run(engine, ([25], beams(3, 8, stop=stop, early_stopping="never", length_penalty=0.0)))
    stopped = [reply for reply in output.outputs if reply.finish_reason == "stop"]
    assert stopped
    for reply in stopped:
        assert reply.stop_reason in stop
        whole = "".join(chr(97 + token) for token in reply.token_ids)
        assert whole == reply.text + str(reply.stop_reason)
    assert all(not any(text in reply.text for text in stop) for reply in output.outputs)


def test_an_aborted_search_gives_everything_back() -> None:
    engine = make_engine()
    request_id = engine.add_request(PROMPT, beams(4, n=2))
    for _ in range(3):
        engine.step()
    deltas = engine.abort(request_id)
    assert [(delta.index, delta.finish_reason) for delta in deltas] == [(0, "abort"), (1, "abort")]
    engine.check_integrity()
    assert (engine.has_unfinished, engine.scheduler.cache_usage) == (False, 0.0)


def test_fewer_replies_than_wanted_end_with_an_error() -> None:
    def one_token(context: Sequence[int]) -> np.ndarray:
        row = np.full(50, -np.inf, np.float32)
        row[3] = 0.0
        return row

    engine = make_engine(logits=one_token)
    engine.add_request(PROMPT, beams(2, 2))
    first, second = run_deltas(engine)
    assert (first.token_ids, first.finish_reason) == ((3, 3), "length")
    assert second.finish_reason == "abort"
    assert "Beam search found 1 replies and n is 2" in str(second.error)


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"n": 3}, "n"),
        ({"n": 1, "logit_bias": {3: 1.0}}, "logit_bias"),
        ({"n": 1, "repetition_penalty": 1.1}, "repetition_penalty"),
        ({"n": 1, "early_stopping": "soon"}, "early_stopping"),
        ({"n": 1, "length_penalty": 11.0}, "length_penalty"),
    ],
)
def test_what_beams_cannot_honour_is_refused_by_name(params: dict[str, object], parameter: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        beams(2, **params)
    assert caught.value.parameter == parameter


def test_without_a_limit_beams_are_as_long_as_fits() -> None:
    [output] = run(make_engine(num_blocks=20), (PROMPT, beams(2, None, n=1)))  # type: ignore[arg-type]
    assert len(output.outputs[0].token_ids) == 9 * 4 - 10 + 1


def test_beams_that_can_never_run_together_are_refused_with_the_numbers() -> None:
    engine: Engine = make_engine(num_blocks=10, max_num_seqs=4)
    with pytest.raises(InvalidParameterError, match="beam_width is 5 and 4 requests run"):
        engine.add_request(PROMPT, beams(5))
    with pytest.raises(ContextLengthError, match="holds 40 tokens, which is room for 0 in each of 4 beams"):
        engine.check_request(PROMPT, beams(4))
    assert not engine.has_unfinished
