"""Where the peers and their models lie: `$PEERS`, by default `~/.cache/peers`."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ.get("PEERS", Path.home() / ".cache" / "peers"))
MODELS = ROOT / "models"
LLAMA = ROOT / "src" / "llama.cpp"
LLAMA_BIN = LLAMA / "build" / "bin"
VENV = ROOT / "venv"
VLLM = ROOT / "vllm"


def model(name: str) -> Path:
    """The path of a benchmark model; says which command makes it when it is not there."""
    path = MODELS / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `python benchmarks/peers/setup.py llama openvino models` first")
    return path


def llama_tool(name: str) -> Path:
    """The path of a program of llama.cpp."""
    path = LLAMA_BIN / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `python benchmarks/peers/setup.py llama` first")
    return path
