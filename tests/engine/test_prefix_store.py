"""The prefix store behind a real model: restarts, types of the cache, adapters, tenants, two processes, a kill."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_crush import LLM, SamplingParams
from glm_crush.config import CrushSettings
from glm_crush.engine.process.engine_process import EngineProcess
from glm_crush.engine.process.packed_engine import MAKE, packed_engine_arguments
from glm_crush.errors import ConfigError, KernelError
from glm_crush.kernels.native import Executor
from tests.engine.scripted import sampled
from tests.engine.tiny_model import make_reference_executor
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import tiny_adapter

pytestmark = pytest.mark.requirement("E6")

PROMPT = [(token * 37 + 11) % 90 + 3 for token in range(70)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logprobs=3, ignore_eos=True)


def make_llm(folder: Path, *, family: str = "llama", store: str | None = "store", **options: Any) -> LLM:
    path = tiny_checkpoint(family, folder, max_position_embeddings=128)
    return LLM(path, kv_cache_tokens=512, prefix_store=None if store is None else folder / store, **options)


def restored(folder: Path, prompt: list[int] = PROMPT, **options: Any) -> int:
    """Tokens that a new process gets from the store."""
    with make_llm(folder, **options) as llm:
        llm.generate(prompt, GREEDY)
        return llm.metrics.prefix_store_hits


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("weight_format", ["q4", "f32"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8", "f32"])
def test_replies_after_a_restart_are_those_of_an_engine_that_keeps_nothing(tmp_path, weight_format, kv_dtype):
    options = {"weight_format": weight_format, "kv_dtype": kv_dtype}
    prompts = [PROMPT, [*PROMPT[:40], 9, 9], PROMPT[:64]]
    with make_llm(tmp_path, store=None, prefix_cache=False, **options) as llm:
        fresh = [output.outputs for output in llm.generate(prompts, GREEDY)]
    with make_llm(tmp_path, **options) as llm:
        assert [output.outputs for output in llm.generate(prompts, GREEDY)] == fresh
        assert (llm.metrics.prefix_store_hits, llm.metrics.prefix_store_drops) == (0, 0)
    with make_llm(tmp_path, **options) as llm:
        outputs = llm.generate(prompts, GREEDY)
        assert [output.outputs for output in outputs] == fresh
        assert [output.usage.cached_tokens for output in outputs] == [64, 32, 48]
        assert llm.metrics.prefix_store_hits == 64


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("family", ["glm4_moe", "gemma3", "glm4_moe_lite"])
@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
def test_other_attentions_are_restored_too(tmp_path, family, executor):
    params = sampled(6, seed=1, ignore_eos=True)
    options = {"family": family, "make_executor": executor}
    with make_llm(tmp_path, store=None, **options) as llm:
        [fresh] = llm.generate(PROMPT, params)
    for hits in (0, 64):
        with make_llm(tmp_path, **options) as llm:
            [output] = llm.generate(PROMPT, params)
            assert output.outputs == fresh.outputs
            assert llm.metrics.prefix_store_hits == hits


def test_a_conversation_goes_on_after_a_restart(tmp_path):
    """The reply is in the store too, so the next turn computes what is new."""
    with make_llm(tmp_path) as llm:
        [first] = llm.generate(PROMPT, replace(GREEDY, max_tokens=30))
    with make_llm(tmp_path) as llm:
        [second] = llm.generate([*PROMPT, *first.outputs[0].token_ids, 5, 6], GREEDY)
        assert second.usage.cached_tokens == 96


def test_what_was_computed_otherwise_is_not_used(tmp_path):
    """Another type of cache, other weights, another model, other kernels: nothing of it fits."""
    assert restored(tmp_path) == 0
    assert restored(tmp_path) == 64
    assert restored(tmp_path, kv_dtype="int8") == 0
    assert restored(tmp_path, weight_format="q8") == 0
    assert restored(tmp_path, make_executor=make_reference_executor) == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "store").symlink_to(tmp_path / "store")
    assert restored(other, family="glm4_moe") == 0
    assert restored(other, family="glm4_moe") == 64
    assert restored(tmp_path) == 64


def test_kernels_of_another_instruction_set_have_a_store_of_their_own(tmp_path, monkeypatch):
    assert restored(tmp_path) == 0
    monkeypatch.setenv("GLM_FORCE_KERNELS", "generic")
    assert restored(tmp_path) == 0
    assert restored(tmp_path) == 64
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_the_limit_is_kept_and_the_rest_counted(tmp_path):
    with make_llm(tmp_path, prefix_store_bytes=40_000) as llm:
        llm.generate([[token, *PROMPT] for token in range(3, 20)], GREEDY)
    with make_llm(tmp_path, prefix_store_bytes=40_000) as llm:
        assert 0 < llm.metrics.prefix_store_bytes <= 40_000
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("blocks"))
    assert size <= 40_000


def test_a_second_engine_reads_what_the_first_has_written(tmp_path, caplog):
    assert restored(tmp_path) == 0
    with make_llm(tmp_path) as writer, make_llm(tmp_path) as reader:
        reader.generate(PROMPT, GREEDY)
        assert reader.metrics.prefix_store_hits == 64
        reader.generate([1, *PROMPT], GREEDY)
        assert reader.metrics.prefix_store_writes == 0
        writer.generate([2, *PROMPT], GREEDY)
    assert "is written by another process; this one reads it only" in caplog.text
    assert restored(tmp_path, [1, *PROMPT]) == 0
    assert restored(tmp_path, [2, *PROMPT]) == 64


def test_an_adapter_is_restored_by_its_content_and_shares_nothing_with_the_model(tmp_path):
    base = tiny_checkpoint("llama", tmp_path, max_position_embeddings=128)
    folder = tiny_adapter(tmp_path / "poet", base)
    replies, hits = [], []
    for name in ("poet", "bard"):
        with make_llm(tmp_path) as llm:
            llm.load_adapter(name, folder)
            [output] = llm.generate(PROMPT, replace(GREEDY, adapter=name))
            replies.append(output.outputs)
            hits.append(llm.metrics.prefix_store_hits)
    assert replies[0] == replies[1]
    assert hits == [0, 64]
    assert restored(tmp_path) == 0


def test_a_store_without_a_prefix_cache_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="prefix_store is set and prefix_cache is off"):
        make_llm(tmp_path, prefix_cache=False)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(ConfigError, match="choose a folder that you may write"):
        make_llm(tmp_path)


def test_a_disk_that_fails_stops_the_store_and_nothing_else(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with make_llm(tmp_path) as llm:
        [fresh] = llm.generate([4, *PROMPT], GREEDY)
    with make_llm(tmp_path) as llm:
        monkeypatch.setattr(os, "pwrite", refuse)
        [first], [second] = llm.generate(PROMPT, GREEDY), llm.generate([4, *PROMPT], GREEDY)
        assert len(first.outputs[0].token_ids) == 12
        assert second.outputs == fresh.outputs
    assert "the prefix store stopped" in caplog.text
    assert "No space left on device" in caplog.text


async def _reply(engine: EngineProcess, request_id: str) -> tuple[list[int], int]:
    tokens, cached = [], -1
    async with asyncio.timeout(120):
        async for delta in engine.submit(request_id, PROMPT, GREEDY):
            tokens += delta.token_ids
            if delta.stats is not None:
                cached = delta.stats.num_cached_tokens
    return tokens, cached


def test_an_engine_that_is_killed_finds_its_prompts_again(tmp_path):
    """In a process of its own: kill -9, and the next process goes on with what was written."""
    path = tiny_checkpoint("llama", tmp_path, max_position_embeddings=128)
    with LLM(path, kv_cache_tokens=512) as llm:
        packed = llm.loaded.packed.path
    settings = CrushSettings(kv_cache_tokens=512, prefix_store=str(tmp_path / "store"), threads=1)

    async def scenario() -> None:
        engine = EngineProcess(MAKE, packed_engine_arguments(packed, settings, 128))
        try:
            await asyncio.to_thread(engine.wait_until_ready)
            fresh, cached = await _reply(engine, "a")
            assert cached == 0
            async with asyncio.timeout(60):
                while engine.metrics.prefix_store_writes < 4:
                    await asyncio.sleep(0.01)
                first = engine.pid
                assert first is not None
                os.kill(first, signal.SIGKILL)
                while engine.pid == first or not engine.is_alive:
                    await asyncio.sleep(0.01)
            assert await _reply(engine, "b") == (fresh, 64)
            async with asyncio.timeout(60):
                while engine.metrics.prefix_store_hits < 64:
                    await asyncio.sleep(0.01)
            assert engine.metrics.prefix_store_writes >= 4
            assert engine.metrics.prefix_store_bytes > 0
        finally:
            await asyncio.to_thread(engine.close)

    asyncio.run(scenario())
    assert restored(tmp_path) == 64


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8", "f32"])
def test_the_bytes_of_a_block_are_the_same_wherever_it_lies(tmp_path, kv_dtype):
    with make_llm(tmp_path, kv_dtype=kv_dtype, store=None) as llm:
        loaded = llm.loaded
    executor = Executor(loaded.compiled.program, loaded.packed, num_threads=1, num_blocks=40, kv_dtype=kv_dtype)
    data = np.random.default_rng(1).integers(0, 255, (2, executor.block_bytes), np.uint8)
    executor.write_blocks(np.array([3, 37], np.int32), data)
    executor.copy_blocks(np.array([37], np.int32), np.array([5], np.int32))
    out = np.zeros((3, executor.block_bytes), np.uint8)
    executor.read_blocks(np.array([5, 3, 4], np.int32), out)
    assert (out[:2] == data[::-1]).all()
    assert not out[2].any()
    with pytest.raises(KernelError, match="block 40 cannot be copied; the cache has 40"):
        executor.read_blocks(np.array([40], np.int32), out[:1])
    with pytest.raises(KernelError, match=r"data must be \[blocks, block_bytes\]"):
        executor.write_blocks(np.array([1], np.int32), data)
