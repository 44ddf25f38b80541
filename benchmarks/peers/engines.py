"""The engines as functions: each call runs one process and returns one figure in tokens a second.

A call repeats the measurement a few times inside its process and returns the median; the harness alternates calls of
different engines, so that a change of the machine's speed touches both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peers.paths import VENV, llama_tool

INNER_REPEAT = 3


@dataclass(frozen=True)
class Task:
    """What is measured: a prompt's prefill, or the decode of some tokens with `depth` tokens in the cache."""

    prompt_tokens: int = 0
    generate_tokens: int = 0
    depth: int = 0

    def __str__(self) -> str:
        """For example `prefill 512` or `decode 128 at depth 4096`."""
        what = f"prefill {self.prompt_tokens}" if self.prompt_tokens else f"decode {self.generate_tokens}"
        return f"{what} at depth {self.depth}" if self.depth else what


def _json_of(command: list[str | Path]) -> Any:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def glm_bench(model: Path | str, *options: str) -> dict[str, Any]:
    """The object that `glm bench MODEL ... --json` prints."""
    glm = Path(sys.executable).parent / "glm"
    result: dict[str, Any] = _json_of([glm, "bench", model, "--json", *options])
    return result


@dataclass(frozen=True)
class Ours:
    """This project's engine."""

    model: Path
    weight_format: str
    threads: int
    kv_dtype: str = "bf16"

    def __call__(self, task: Task) -> float:
        """Tokens a second of one run of `glm bench`."""
        options = {
            "--prompt-tokens": task.prompt_tokens,
            "--generate-tokens": task.generate_tokens,
            "--depth": task.depth,
            "--repeat": INNER_REPEAT,
            "--threads": self.threads,
            "--weight-format": self.weight_format,
            "--kv-dtype": self.kv_dtype,
        }
        result = glm_bench(self.model, *(str(part) for pair in options.items() for part in pair))
        side = "prefill" if task.prompt_tokens else "decode"
        return float(result[f"{side}_tokens_per_second"]["median"])

    def __str__(self) -> str:
        """Its name in the tables."""
        return f"glm-crush {self.weight_format}" + (f", cache {self.kv_dtype}" if self.kv_dtype != "bf16" else "")


@dataclass(frozen=True)
class Llama:
    """llama.cpp's llama-bench."""

    model: Path
    threads: int
    flash_attention: str = "auto"
    cache_type: str = "f16"

    def __call__(self, task: Task) -> float:
        """Tokens a second of one run of llama-bench."""
        options = {
            "-m": self.model,
            "-p": task.prompt_tokens,
            "-n": task.generate_tokens,
            "-d": task.depth,
            "-t": self.threads,
            "-fa": self.flash_attention,
            "-ctk": self.cache_type,
            "-ctv": self.cache_type,
            "-r": INNER_REPEAT,
            "-o": "json",
        }
        command = [llama_tool("llama-bench"), *(str(part) for pair in options.items() for part in pair)]
        (row,) = _json_of(command)
        return statistics.median(row["samples_ts"])

    def settings(self) -> list[Llama]:
        """Itself in the settings worth trying."""
        values = [replace(self, flash_attention=value) for value in ("off", "on")]
        # It quantises the cache with flash attention only.
        return [*values, replace(self, flash_attention="on", cache_type="q8_0")]

    def __str__(self) -> str:
        """Its name in the tables."""
        quant = self.model.stem.rsplit("-", 1)[-1]
        return f"llama.cpp {quant} (fa {self.flash_attention}, cache {self.cache_type})"


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO GenAI in process (prefill only)."""

    model: Path
    threads: int
    backend: str = "SDPA"

    def __call__(self, task: Task) -> float:
        """Tokens a second of one run of `openvino_prefill.py`."""
        script = Path(__file__).with_name("openvino_prefill.py")
        options = ["--backend", self.backend, "--tokens", str(task.prompt_tokens), "--threads", str(self.threads)]
        command = [VENV / "bin" / "python", script, self.model, *options, "--repeat", str(INNER_REPEAT)]
        return statistics.median(_json_of(command)["prefill"])

    def settings(self) -> list[OpenVino]:
        """Itself in the settings worth trying."""
        return [replace(self, backend=value) for value in ("SDPA", "PA")]

    def __str__(self) -> str:
        """Its name in the tables."""
        return f"OpenVINO {self.model.name.removeprefix('ov-')} ({self.backend})"


Engine = Callable[[Task], float]


def best(candidates: list[Engine], task: Task) -> Engine:
    """The fastest of several engines or settings at a task, by one run of each."""
    speeds = [(candidate(task), i) for i, candidate in enumerate(candidates)]
    for speed, i in speeds:
        print(f"  tried {candidates[i]!s:<28} {task}: {speed:9.1f} tok/s", flush=True)
    return candidates[max(speeds)[1]]
