"""A program that ends without closing its models ends cleanly, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glm_crush.models.loader import load_model
from tests.models.tiny import tiny_checkpoint

PRELUDE = """
import sys, threading, time
from glm_crush import LLM, SamplingParams
from glm_crush.engine.async_engine import AsyncEngine
from glm_crush.engine.build import build_engine
from glm_crush.config import load_settings

def daemon(work):
    started = threading.Event()
    threading.Thread(target=work, args=(started,), daemon=True).start()
    assert started.wait(60)
"""
OPEN = "llm = LLM(sys.argv[1], kv_cache_tokens=64)\n"
ENDINGS = {
    "left open": OPEN,
    "held by a thread": OPEN + "daemon(lambda started, llm=llm: (started.set(), time.sleep(1000)))",
    "generating in a thread": OPEN
    + """
def generate(started):
    while True:
        for delta in llm.stream([1], SamplingParams(max_tokens=40, ignore_eos=True)):
            started.set()

daemon(generate)
""",
    "an engine with a thread of its own": OPEN
    + "engine = AsyncEngine(build_engine(llm.loaded, load_settings().crush, max_context=40).engine)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_cleanly_with_its_model(ending: str, tmp_path: Path) -> None:
    cache = tmp_path / "packed"
    load_model(tiny_checkpoint("llama", tmp_path), cache_dir=cache)
    [packed] = cache.iterdir()
    command = [sys.executable, "-c", PRELUDE + ENDINGS[ending], str(packed)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "leaked" not in ended.stderr
    assert "terminate called" not in ended.stderr
