"""Threads of the native core: what becomes of a pool that cannot have all of its own, and of step numbers that wrap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glm_crush.models.loader import load_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E1")

LOAD = """
import sys
from pathlib import Path

import numpy as np

from glm_crush.errors import KernelError
from glm_crush.kernels import _native
from glm_crush.kernels.native import Executor
from glm_crush.kernels.program import ForwardBatch
from glm_crush.models.loader import load_model

loaded = load_model(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]))
program = loaded.compiled.program
"""

FEW_THREADS = """
import resource

executor = Executor(program, loaded.packed, num_threads=2, num_blocks=4, max_tokens=16)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
try:
    Executor(program, loaded.packed, num_threads=512, num_blocks=4, max_tokens=16)
except KernelError as error:
    print(error)
"""

# A phase that no step has needed for 2^31 of them: its stamps are half a circle of numbers away.
STEPS = """
def steps(last_step):
    limits = {"num_threads": 3, "num_blocks": 4, "max_tokens": 64}
    executor = _native.Executor(program, loaded.packed, **limits, kv_dtype="f32", kernels=None, last_step=last_step)
    for number in range(8):
        size = 1 if number < 4 else 20 + number
        batch = ForwardBatch(
            token_ids=np.arange(size, dtype=np.int32),
            positions=np.arange(size, dtype=np.int32),
            query_start=np.array([0, size], np.int32),
            context_lens=np.array([size], np.int32),
            block_tables=np.array([[0, 1]], np.int32),
            logit_rows=np.array([size - 1], np.int32),
        )
        logits = np.empty((1, program.vocab_size), np.float32)
        executor.forward(batch, logits, None, None, None, None, None)
        yield logits.tolist()

assert [*steps(2**31 - 4)] == [*steps(0)]
print("same")
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which may crash or hang."""
    path = tiny_checkpoint("glm4_moe", folder)
    load_model(path, cache_dir=folder / "packed")
    arguments = [str(path), str(folder / "packed")]
    return subprocess.run(
        [sys.executable, "-c", LOAD + program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_too_few_threads_are_an_error_and_not_the_end_of_the_process(tmp_path):
    done = run(FEW_THREADS, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert " of 512 threads: " in done.stdout


def test_steps_go_on_where_their_numbers_are_half_a_circle_from_those_of_a_phase_seldom_used(tmp_path):
    done = run(STEPS, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "same\n"
