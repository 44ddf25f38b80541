"""What the machine offers, read from files as Linux writes them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from glm_crush.engine.machine import available_memory_bytes, physical_cores, release_free_memory
from glm_crush.errors import ConfigError


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


SIBLINGS = {
    f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)
}


@pytest.mark.requirement("E3")
@pytest.mark.parametrize(
    ("cpus", "files", "expected"),
    [
        (range(8), {}, 4),
        ([0, 4, 1], {}, 2),
        (range(8), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 4),
        (range(8), {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        (range(8), {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            range(8),
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/box\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_threads_of_one_core_count_once_and_the_quota_limits(tmp_path, cpus, files, expected):
    assert physical_cores(write(tmp_path, SIBLINGS | files), cpus) == expected


def test_without_topology_each_cpu_is_a_core(tmp_path):
    assert physical_cores(tmp_path, [0, 1, 2]) == 3


@pytest.mark.requirement("N7")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_memory_that_was_freed_below_memory_in_use_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(60_000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:
        libc.free(block)
    before = anonymous_bytes()
    release_free_memory()
    assert before - anonymous_bytes() > 30_000_000
    libc.free(blocks[-1])


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024
