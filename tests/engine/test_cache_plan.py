"""The KV cache is sized before it is allocated, and what does not fit is refused with the numbers."""

from __future__ import annotations

import pytest

from glm_crush.engine.cache_plan import CachePlan, kv_bytes_per_token, kv_dtype_beside, plan_cache
from glm_crush.errors import ConfigError
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import CacheLayer, CopyHeads, Program, View

pytestmark = pytest.mark.requirement("E5")

MIB = 2**20


def plan(**options: int) -> CachePlan:
    """A model of 4,096 positions whose cache takes 64 bytes a token; 1 MiB is free."""
    return plan_cache(**{"max_position": 4096, "bytes_per_token": 64, "budget_bytes": MIB, **options})


def test_bytes_per_token_count_keys_and_values_of_every_layer():
    program = Program(8, 32, 4096, (8,), (), (CacheLayer(2, 6, 2), CacheLayer(2, 6, 2)), ())
    assert kv_bytes_per_token(program, "bf16") == 64
    assert kv_bytes_per_token(program, "f32") == 128


def test_int8_keys_and_values_bring_a_scale_for_every_64_dimensions():
    llama = Program(8, 32, 4096, (8,), (), (CacheLayer(3, 64, 64),) * 30, ())
    assert kv_bytes_per_token(llama, "int8") == 30 * 3 * (64 + 64 + 2 + 2)
    latent = Program(8, 32, 4096, (8,), (), (CacheLayer(1, 576, 512),), ())
    assert kv_bytes_per_token(latent, "int8") == 576 + 512 + 2 * (9 + 8) + 2  # scales padded to whole lines


class NoWeights:
    """Of a program without operations."""

    def tensor(self, name: str) -> None:
        raise AssertionError(name)

    def vector(self, name: str) -> None:
        raise AssertionError(name)


@pytest.mark.parametrize(("kv_dtype", "num_blocks"), [("bf16", 512), ("int8", 32768), ("f32", 256)])
def test_the_native_cache_takes_what_was_planned(kv_dtype, num_blocks):
    """Numbers of blocks that fill whole pages of 2 MiB."""
    copy = CopyHeads(View(0, 0, 4), View(0, 4, 4), num_heads=1, input_stride=4, out_stride=4, width=4)
    program = Program(8, 32, 4096, (8,), (), (CacheLayer(2, 64, 64),), (copy,))
    executor = Executor(program, NoWeights(), num_threads=1, num_blocks=num_blocks, max_tokens=1, kv_dtype=kv_dtype)
    assert executor.cache_bytes == num_blocks * 16 * kv_bytes_per_token(program, kv_dtype)


def test_by_default_a_short_context_gets_room_for_several():
    cache = plan(budget_bytes=100 * MIB)
    assert (cache.max_context, cache.num_tokens, cache.num_bytes) == (4096, 16384, 16384 * 64)


def test_by_default_a_long_context_is_cut_to_what_the_memory_holds():
    cache = plan(max_position=131072, budget_bytes=2 * MIB)
    assert (cache.max_context, cache.num_tokens) == (32768, 32768)


def test_a_stated_context_and_cache_are_kept():
    cache = plan(max_context=1000, kv_cache_tokens=3000)
    assert (cache.max_context, cache.num_blocks) == (1000, 188)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_context": 5000}, "set to 5000; this model takes 4096"),
        (
            {"kv_cache_tokens": 20000},
            "a KV cache of 20000 tokens takes 1 MiB .64 bytes a token.; 1 MiB .* enough for 16384",
        ),
        ({"max_context": 200, "kv_cache_tokens": 100}, "the context length is 200 and the KV cache holds 100 tokens"),
        ({"budget_bytes": 100}, "a KV cache of 16 tokens"),
    ],
)
def test_what_cannot_be_is_refused_with_the_numbers(options, message):
    with pytest.raises(ConfigError, match=message):
        plan(**options)


@pytest.mark.parametrize(
    ("weight_formats", "wanted", "kv_dtype"),
    [
        ({"q4", "q8g"}, "auto", "int8"),
        ({"q8", "f32"}, "auto", "int8"),
        ({"bf16"}, "auto", "bf16"),
        ({"bf16", "f32"}, "auto", "bf16"),
        ({"f32"}, "auto", "f32"),
        ({"q4"}, "bf16", "bf16"),
        ({"f32"}, "int8", "int8"),
    ],
)
def test_the_cache_is_as_fine_as_the_weights_unless_told_otherwise(weight_formats, wanted, kv_dtype):
    assert kv_dtype_beside(weight_formats, wanted) == kv_dtype
