"""`glm config show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.errors import ConfigError

pytestmark = pytest.mark.requirement("O2")

Glm = Callable[..., Any]


def shown(glm: Glm, *arguments: str) -> Any:
    return json.loads(glm(*arguments, "config", "show", "--json").output)


def test_each_value_comes_with_its_origin(glm: Glm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[crush]\nthreads = 3\n")
    monkeypatch.setenv("GLM_API_PORT", "4601")
    values = shown(glm, "--config", str(file), "--set", "crush.max_num_seqs=8")
    assert values["crush.threads"] == {"value": 3, "origin": str(file)}
    assert values["api.port"] == {"value": 4601, "origin": "environment GLM_API_PORT"}
    assert values["crush.max_num_seqs"] == {"value": 8, "origin": "flag"}
    assert values["api.host"] == {"value": "127.0.0.1", "origin": "default"}


def test_in_a_pipe_each_setting_is_one_line(glm: Glm, tmp_path: Path) -> None:
    file = tmp_path / ("a" * 100) / "my.toml"
    file.parent.mkdir()
    file.write_text("[crush]\nthreads = 3\n")
    lines = glm("--config", str(file), "config", "show").output.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("crush.threads")] == [
        ["crush.threads", "3", str(file)]
    ]


def test_a_secret_is_not_shown(glm: Glm) -> None:
    output = glm("--set", "api.key=hunter2", "config", "show").output
    assert "hunter2" not in output
    assert "********" in output


def test_an_unknown_option_names_the_nearest(glm: Glm) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'crush\.threads'"):
        glm("--set", "crush.thread=3", "config", "show")


def test_an_assignment_without_a_value_is_misuse(glm: Glm) -> None:
    assert glm("--set", "crush.threads", "config", "show", check=False).exit_code == 2
