"""The KV cache is sized before it is allocated, and what does not fit is refused with the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_crush.engine.memory import available_memory_bytes, kv_bytes_per_token, plan_cache
from glm_crush.errors import ConfigError
from glm_crush.kernels.program import CacheLayer, Program

pytestmark = pytest.mark.requirement("E5")

MIB = 2**20


def make_program(*, max_position: int = 4096) -> Program:
    """Two layers of 2 x (6 + 2) numbers: 32 numbers, 64 bytes in bf16, a token."""
    return Program(8, 32, max_position, (8,), (), (CacheLayer(2, 6, 2), CacheLayer(2, 6, 2)), ())


def test_bytes_per_token_count_keys_and_values_of_every_layer():
    assert kv_bytes_per_token(make_program(), "bf16") == 64
    assert kv_bytes_per_token(make_program(), "f32") == 128


def test_by_default_a_short_context_gets_room_for_several():
    plan = plan_cache(make_program(), budget_bytes=100 * MIB)
    assert (plan.max_context, plan.num_tokens, plan.num_bytes) == (4096, 16384, 16384 * 64)


def test_by_default_a_long_context_is_cut_to_what_the_memory_holds():
    plan = plan_cache(make_program(max_position=131072), budget_bytes=2 * MIB)
    assert (plan.max_context, plan.num_tokens) == (32768, 32768)


def test_a_stated_context_and_cache_are_kept():
    plan = plan_cache(make_program(), max_context=1000, kv_cache_tokens=3000, budget_bytes=MIB)
    assert (plan.max_context, plan.num_blocks) == (1000, 188)


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
        plan_cache(make_program(), **{"budget_bytes": MIB, **options})


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable:    4000 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4_096_000),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"}, 4_096_000),
        (
            {
                "proc/self/cgroup": "0::/user/box\n",
                "sys/fs/cgroup/user/box/memory.max": "3000\n",
                "sys/fs/cgroup/user/box/memory.current": "2500\n",
                "sys/fs/cgroup/user/box/memory.stat": "anon 2000\ninactive_file 400\n",
            },
            900,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100\n",
            },
            600,
        ),
    ],
)
def test_free_memory_is_the_machines_within_the_control_groups_limit(tmp_path, files, expected):
    assert available_memory_bytes(write(tmp_path, MEMINFO | files)) == expected


def test_a_system_that_does_not_say_asks_for_a_number(tmp_path):
    with pytest.raises(ConfigError, match="set kv_cache_tokens"):
        available_memory_bytes(tmp_path)
