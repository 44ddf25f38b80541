"""Replies of one call compute their prompt once; a block that several hold is copied by whoever writes into it."""

from __future__ import annotations

import numpy as np
import pytest

from glm_crush.engine.block_pool import BlockPool
from glm_crush.engine.request import Request, RequestStatus
from glm_crush.engine.scheduler import Scheduler
from glm_crush.errors import KernelError
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.llm import LLM
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.loader import load_model
from glm_crush.types import SamplingParams
from tests.engine.scripted import ScriptedExecutor, greedy, make_engine, make_limits, run, sampled
from tests.engine.test_scheduler import step, summary
from tests.models.tiny import tiny_checkpoint

PROMPT = list(range(10))  # two blocks of 4 and half of a third

pytestmark = pytest.mark.requirement("E5")


def make_replies(n: int, prompt: list[int] = PROMPT, **params: object) -> list[Request]:
    return [Request("r", prompt, SamplingParams(**params), max_tokens=8, index=index) for index in range(n)]


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_the_prompt_of_several_replies_is_computed_once(prefix_cache: bool) -> None:
    executor = ScriptedExecutor()
    engine = make_engine(executor=executor, prefix_cache=prefix_cache)
    [output] = run(engine, (PROMPT, sampled(3, seed=5, n=4)))
    assert executor.steps == [(10, 1), (4, 4), (4, 4)]
    assert [run(make_engine(), (PROMPT, sampled(3, seed=5 + i)))[0].outputs[0].token_ids for i in range(4)] == [
        reply.token_ids for reply in output.outputs
    ]


def test_only_the_last_partial_block_is_copied_and_not_by_the_last_who_holds_it() -> None:
    executor = ScriptedExecutor()
    run(make_engine(executor=executor), (PROMPT, sampled(3, seed=5, n=4)))
    assert executor.copied == [(2, 3), (2, 4), (2, 5)]


def test_a_prompt_that_fills_its_blocks_is_shared_without_a_copy() -> None:
    executor = ScriptedExecutor()
    run(make_engine(executor=executor), (PROMPT[:8], sampled(3, seed=5, n=4)))
    assert executor.copied == []


def test_replies_without_room_wait_and_read_the_cache() -> None:
    scheduler = Scheduler(make_limits(max_num_seqs=2), BlockPool(64, 4))
    replies = make_replies(3)
    scheduler.add(replies)
    assert [request.status.name for request in replies] == ["WAITING", "PENDING", "PENDING"]
    assert summary(step(scheduler)) == {"r": (10, 0)}  # the second reply's part: a fork computes nothing
    assert [request.status.name for request in replies] == ["RUNNING", "RUNNING", "WAITING"]


def test_a_fork_takes_one_of_the_budget_so_that_its_logits_have_a_row() -> None:
    scheduler = Scheduler(make_limits(token_budget=11), BlockPool(64, 4))
    replies = make_replies(4)
    scheduler.add(replies)
    batch = step(scheduler)
    assert [(part.start, part.num_tokens, part.samples) for part in batch.requests] == [(0, 10, True), (10, 0, True)]


def test_when_the_first_reply_is_aborted_the_next_computes_the_prompt() -> None:
    scheduler = Scheduler(make_limits(token_budget=8), BlockPool(64, 4))
    first, second, third = make_replies(3)
    scheduler.add([first, second, third])
    step(scheduler)
    scheduler.finish(first, "abort")
    scheduler.finish(third, "abort")
    assert second.status is RequestStatus.WAITING
    step(scheduler)
    scheduler.check_integrity()
    assert (second.num_computed_tokens, scheduler.pending) == (8, [])


def test_prompt_logprobs_are_scored_once_for_all_replies() -> None:
    executor = ScriptedExecutor()
    [output] = run(make_engine(executor=executor), (PROMPT, sampled(2, seed=1, n=3, prompt_logprobs=1)))
    [alone] = run(make_engine(), (PROMPT, greedy(2, prompt_logprobs=1)))
    assert output.prompt_logprobs == alone.prompt_logprobs
    assert executor.steps[0] == (10, 1)


def test_a_preempted_fork_draws_the_same_reply() -> None:
    engine = make_engine(num_blocks=6)
    requests = [(PROMPT, sampled(6, seed=3, n=3))]
    assert run(engine, *requests)[0].outputs == run(make_engine(), *requests)[0].outputs
    assert engine.metrics.num_preemptions > 0


@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
def test_a_copied_block_reads_like_the_original_in_the_native_and_the_reference_cache(tmp_path, kv_dtype) -> None:
    loaded = load_model(tiny_checkpoint("llama", tmp_path, dtype="F32"), cache_dir=tmp_path / "packed")
    program = loaded.compiled.program
    weights = DenseWeights.from_packed(loaded.packed, loaded.compiled.program_plan)
    native = Executor(program, loaded.packed, num_threads=2, num_blocks=4, max_tokens=32, kv_dtype=kv_dtype)
    reference = ReferenceExecutor(program, weights, num_blocks=4, kv_dtype=kv_dtype)
    for executor in (native, reference):
        executor.forward(make_batch(range(3, 23), 0, [2, 0]))
        executor.copy_blocks(np.array([2, 0], np.int32), np.array([1, 3], np.int32))
        original = executor.forward(make_batch([30, 31], 20, [2, 0]))
        assert executor.forward(make_batch([30, 31], 20, [1, 3])).tolist() == original.tolist()


def test_a_block_that_does_not_exist_is_not_copied(tmp_path) -> None:
    loaded = load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path / "packed")
    executor = Executor(loaded.compiled.program, loaded.packed, num_threads=1, num_blocks=4, max_tokens=32)
    with pytest.raises(KernelError, match="block 4 cannot be copied; the cache has 4"):
        executor.copy_blocks(np.array([0], np.int32), np.array([4], np.int32))


def test_native_replies_of_one_call_are_those_of_separate_calls(tmp_path) -> None:
    path = tiny_checkpoint("glm4", tmp_path, dtype="BF16", max_position_embeddings=256)
    prompt = list(range(3, 40))
    with LLM(path, kv_cache_tokens=1024, threads=2) as llm:
        [output] = llm.generate(prompt, sampled(40, seed=7, n=3))
        alone = llm.generate([prompt] * 3, [sampled(40, seed=7 + i) for i in range(3)])
    assert [reply.token_ids for reply in output.outputs] == [other.outputs[0].token_ids for other in alone]


def make_batch(tokens: range | list[int], start: int, blocks: list[int]) -> ForwardBatch:
    count = len(tokens)
    return ForwardBatch(
        token_ids=np.array(tokens, np.int32),
        positions=np.arange(start, start + count, dtype=np.int32),
        query_start=np.array([0, count], np.int32),
        context_lens=np.array([start + count], np.int32),
        block_tables=np.array([blocks], np.int32),
        logit_rows=np.array([count - 1], np.int32),
    )
