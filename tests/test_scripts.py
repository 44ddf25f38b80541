"""The house rules that `make check` enforces with scripts of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True)


def test_no_source_file_is_longer_than_400_lines() -> None:
    done = run_script("check_file_sizes.py")
    assert (done.returncode, done.stdout) == (0, "")


def test_no_instruction_set_lends_its_code_to_the_portable_path() -> None:
    done = run_script("check_isa_symbols.py")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_shown_in_the_pages_print_what_the_pages_say() -> None:
    done = run_script("make_docs.py", "--check")
    assert (done.returncode, done.stdout) == (0, ""), "run `make docs`"
