"""A worker that is still on its way when a step ends must not look at the caller's arrays: they may be gone by then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from glm_crush.models.loader import load_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E1")

# An array in a mapping of its own is unmapped when it is freed: whoever reads it then crashes, here a process apart.
# Far more threads than processors, so that some are always late.
STEPS = """
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from glm_crush.kernels.program import ForwardBatch
from glm_crush.kernels.native import Executor
from glm_crush.models.loader import load_model

def fleeting(values):
    memory = np.frombuffer(mmap.mmap(-1, 4096), np.int32)[: len(values)]
    memory[:] = values
    return memory

loaded = load_model(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]))
program = replace(loaded.compiled.program, keeps_hidden=sys.argv[3] == "keeps hidden")
executor = Executor(program, loaded.packed, num_threads=16, num_blocks=4, max_tokens=64)
TOKENS = 20
for step in range(300):
    logit_rows = [[], [TOKENS - 1], [3, 7]][step % 3]
    executor.forward(
        ForwardBatch(
            token_ids=fleeting(range(TOKENS)),
            positions=fleeting(range(TOKENS)),
            query_start=fleeting([0, TOKENS]),
            context_lens=fleeting([TOKENS]),
            block_tables=fleeting([1, 2]).reshape(1, 2),
            logit_rows=fleeting(logit_rows),
        )
    )
"""


@pytest.mark.parametrize("hidden", ["keeps hidden", "keeps nothing"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "glm4_moe", "glm4_moe_lite"])
def test_late_threads_leave_the_callers_arrays_alone(tmp_path, family, hidden):
    path = tiny_checkpoint(family, tmp_path)
    load_model(path, cache_dir=tmp_path / "packed")
    arguments = [str(path), str(tmp_path / "packed"), hidden]
    done = subprocess.run([sys.executable, "-c", STEPS, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
