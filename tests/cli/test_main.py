"""The command as a user starts it: help, errors, exit codes, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.cli.main import app

Glm = Callable[..., Any]
VERBS = (
    *("run", "chat", "serve", "pull", "list", "show", "cp", "rm", "quantize", "inspect"),
    *("bench", "perplexity", "config", "version"),
)


def start(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'glm'; from glm_crush.cli.main import main; main()"]
    environment = os.environ | variables
    return subprocess.run(
        [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False, env=environment
    )


def test_help_lists_every_verb_and_shows_examples(glm: Glm) -> None:
    output = glm("--help").output
    assert all(f" {verb} " in output for verb in VERBS)
    assert "Examples" in output
    assert 'glm run "Why is the sky blue?"' in output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(glm: Glm, verb: str) -> None:
    assert "Usage: " in glm(verb, "--help").output


def test_help_shows_flags_without_a_value_and_examples_in_columns(glm: Glm) -> None:
    for verb in (["--help"], ["run", "--help"], ["keys", "list", "--help"], ["batch", "--help"]):
        assert "<bool>" not in glm(*verb).output
    shown = [line for line in glm("ps", "--help").output.splitlines() if line.strip().startswith("glm ps")]
    assert len(shown) == 3
    columns = {line.index(what) for line, what in zip(shown, ("the server", "again", "another"), strict=True)}
    assert len(columns) == 1


@pytest.mark.parametrize("line", ["glm show t", "glm run t", "glm serve t", "glm rm t", "glm inspect t", "glm chat t"])
def test_a_shell_completes_names_of_stored_models(glm: Glm, tiny_llama: Path, glm_home: Path, line: str) -> None:
    glm("pull", str(tiny_llama), "--name", "tiny")
    asked = {"_GLM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "2", "GLM_HOME": str(glm_home)}
    assert start(**asked).stdout.split() == ["tiny"]
    assert start(**asked | {"GLM_HOME": "/proc/nothing"}).stdout.split() == []


def test_every_option_has_help() -> None:
    import typer.main

    def undocumented(command: Any) -> list[str]:
        children = getattr(command, "commands", {}).values()
        return [
            f"{command.name} {parameter.name}"
            for parameter in command.params
            if not getattr(parameter, "help", "text") and parameter.name != "help"
        ] + [name for child in children for name in undocumented(child)]

    assert undocumented(typer.main.get_command(app)) == []


def test_an_error_of_ours_is_one_line_on_standard_error_and_exit_code_1() -> None:
    done = start("show", "nothing")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: no model 'nothing'")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["nonsense"], ["bench"], ["bench", "m", "--batch", "0"]])
def test_misuse_is_exit_code_2(arguments: list[str]) -> None:
    assert start(*arguments).returncode == 2


def test_help_loads_neither_arrays_nor_server_nor_tokenizers() -> None:
    code = (
        "import sys\nfrom glm_crush.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'fastapi', 'uvicorn', 'tokenizers', 'httpx2', 'pydantic', 'prompt_toolkit'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


def test_version_names_what_is_installed(glm: Glm) -> None:
    assert glm("version").output.startswith("glm-crush 0.")
    assert glm("--version").output == glm("version").output
