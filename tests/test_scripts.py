"""The house rules that `make check` enforces with scripts of ours."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True)


def test_no_source_file_is_longer_than_400_lines() -> None:
    done = run_script("check_file_sizes.py")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_python_that_builds_is_accepted_and_what_lacks_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = runpy.run_path(str(ROOT / "scripts" / "check_build.py"))["missing"]
    assert check(service=False) == []
    monkeypatch.setattr(sys, "base_prefix", "/root/python")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert check(service=True) == [
        "the headers of Python (apt-get install python3-dev)",
        "a C++ compiler (apt-get install g++)",
        "a Python that the service may read, and /root/python is closed to it: PYTHON=/usr/bin/python3",
    ]
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert check(service=False)[0] == f"Python 3.11 or newer; {sys.executable} is 3.9. Name another with PYTHON="


def test_the_service_is_installed_by_root_alone(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    script = ROOT / "scripts" / "install_service.sh"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["bash", script], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert (done.returncode, done.stdout) == (1, "")
    assert "run it as root" in done.stderr


def test_no_instruction_set_lends_its_code_to_the_portable_path() -> None:
    done = run_script("check_isa_symbols.py")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_commands_shown_in_the_pages_print_what_the_pages_say() -> None:
    done = run_script("make_docs.py", "--check")
    assert (done.returncode, done.stdout) == (0, ""), "run `make docs`"
