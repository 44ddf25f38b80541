"""Every example of the pages runs, on a tiny model instead of the default one."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import typer
from click import Context

from glm_crush.cli.main import app
from tests.docs.blocks import LANGUAGES, PAGES, REASONS, ROOT, Block, blocks_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.runs and block.language == "python"})
SHELL_BLOCKS = [block for block in BLOCKS if block.runs and block.language in ("sh", "console")]
NOT_RUN = [block for block in BLOCKS if block.language in LANGUAGES and block.not_run is not None]

ADDRESS = "127.0.0.1:4600"
Port = Callable[[], str]


def with_port(text: str, server_port: Port) -> str:
    """The example against the test's server; examples without a server do not start one."""
    return text.replace(ADDRESS, f"127.0.0.1:{server_port()}") if ADDRESS in text else text


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_examples_of_a_page_run_in_order(
    page: Path, example_home: Path, example_folder: Path, server_port: Port
) -> None:
    """They share one namespace, as if typed one after the other; where the page shows what is printed, it is that."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page):
        if block.language == "python" and block.runs:
            source = "\n" * (block.line - 1) + with_port(block.text, server_port)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(source, str(page), "exec", dont_inherit=True), namespace)
            printed = output.getvalue()
        elif block.is_output:
            assert printed == block.text, f"{block.name} is not what the example prints"


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.name)
def test_a_shell_example_runs(block: Block, shell_environment: dict[str, str], server_port: Port) -> None:
    text = with_port(block.text, server_port)
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if block.language == "console":
        for command, expected in console_commands(text):
            output = run(command, shell_environment).stdout
            assert fnmatchcase(output.rstrip(), escaped(expected)), f"{block.name}: {command} printed\n{output}"
        return
    done = run(f"set -euo pipefail\n{text}", shell_environment)
    assert done.returncode == 0, f"{block.name} ended with {done.returncode}:\n{done.stdout}"
    assert '"error"' not in done.stdout, done.stdout


def run(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def console_commands(text: str) -> list[tuple[str, str]]:
    """Lines after `$ ` with what they print."""
    parts = re.split(r"^\$ (.*)$", text, flags=re.MULTILINE)[1:]
    return [(command, output.strip("\n")) for command, output in zip(parts[::2], parts[1::2], strict=True)]


def escaped(expected: str) -> str:
    """A pattern in which `...` is anything and all else stands for itself."""
    return re.sub(r"[][*?]", lambda m: f"[{m[0]}]", expected.rstrip()).replace("...", "*")


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.name)
def test_an_example_that_is_not_run_says_why_and_its_commands_exist(block: Block) -> None:
    assert block.not_run in REASONS, f"{block.name}: {block.not_run!r} is not one of {list(REASONS)}"
    if block.language == "sh":
        for line in block.text.splitlines():
            check_command(line)


def check_command(line: str) -> None:
    """A `glm` line parses, a `make` line names a target, a script is there."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["glm"]:
        root: Any = typer.main.get_command(app)
        context = Context(root)
        verb = root.get_command(context, words[1])
        assert verb is not None, line
        verb.make_parser(Context(verb, parent=context)).parse_args(words[2:])
    elif words[:1] == ["make"]:
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif len(words) > 1 and words[0].endswith("python") and not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file(), line


def test_no_example_lacks_a_language_and_none_is_forgotten() -> None:
    """A fence without a language would silently not run; so would a shell block by another name."""
    known = {*LANGUAGES, "text", "json", "toml", "md", "cpp", "http"}
    for block in BLOCKS:
        assert block.language in known, f"{block.name}: {block.language!r}"
    assert len(PYTHON_PAGES) >= 4
    assert len(SHELL_BLOCKS) >= 10
