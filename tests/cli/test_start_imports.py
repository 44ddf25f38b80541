"""What a server does without until it is ready: what only other verbs need, and what only some of its clients do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.requirement("N7")

NOT_FOR_A_START = (
    # terminals, arrays, checkpoints: what is drawn, computed, packed or converted
    *("rich", "prompt_toolkit", "numpy", "ml_dtypes", "gguf", "safetensors", "glm_crush.weights.checkpoint"),
    # what a request brings in that needs it
    *(
        "sqlalchemy",
        "aiosqlite",
        "grpc",
        "google.protobuf",
        "strawberry",
        "graphql",
        "mcp",
        "httpx2",
        "structlog",
        "websockets",
    ),
    # what the engine's process has
    *("llguidance", "glm_crush.kernels.native", "glm_crush.engine.engine", "glm_crush.engine.scheduler"),
    # other verbs
    *("glm_crush.cli.run", "glm_crush.cli.bench", "glm_crush.cli.keys", "glm_crush.cli.inspect"),
)
# Says what has been imported when the lines come that say that the server is ready.
SERVE = f"""
import sys
from glm_crush.cli import console
print_lines = console.print_lines
def print_lines_and_modules(lines):
    print_lines(lines)
    imported = [name for name in {NOT_FOR_A_START!r} if name in sys.modules]
    print_lines([[("imported: " + " ".join(imported), "")]])
console.print_lines = print_lines_and_modules
from glm_crush.cli.main import main
main()
"""
# All that `glm_crush.engine.process` imports before it builds an engine, and while it does.
ENGINE = """
import sys
import glm_crush.engine.process.host, glm_crush.engine.build, glm_crush.engine.process.packed_engine
import glm_crush.kernels.native
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_ready_server_has_imported_what_it_needs_and_no_more(glm: Any, tiny_llama: Path) -> None:
    glm("keys", "create", "shop")  # there is a database: it is opened when it is needed
    imported_when_ready(tiny_llama)  # packs the model
    assert imported_when_ready(tiny_llama) == ""


def imported_when_ready(model: Path) -> str:
    command = [sys.executable, "-c", SERVE, "serve", str(model), "--threads", "1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            printed = []
            for line in process.stderr:
                if line.startswith("imported:"):
                    return line.removeprefix("imported:").strip()
                printed.append(line)
        finally:
            process.kill()
    raise AssertionError("".join(printed))


def test_the_engines_process_imports_neither_server_nor_readers_of_checkpoints() -> None:
    done = subprocess.run([sys.executable, "-c", ENGINE], capture_output=True, text=True, check=True)
    others = {"asyncio", "pydantic", "starlette", "uvicorn", "typer", "rich", "jinja2", "llguidance", "sqlalchemy"}
    assert not set(done.stdout.split()) & {*others, "ml_dtypes", "gguf", "safetensors"}
