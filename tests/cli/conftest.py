"""Fixtures of the command line tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from glm_crush.cli.main import app
from tests.models.tiny import tiny_checkpoint
from tests.serving.scripted import loopback_server, scripted_engine, start_server
from tests.storage.databases import database_url, postgres_server

__all__ = ["database_url", "glm", "loopback_server", "postgres_server", "scripted_engine", "start_server", "tiny_llama"]

Glm = Callable[..., Result]


@pytest.fixture
def glm() -> Glm:
    """Run a verb in this process: `glm("list", "--json")`; an error of ours is raised."""

    def run(*arguments: str, stdin: str | None = None, check: bool = True) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
        assert not check or result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of the llama family; read-only."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny"))
