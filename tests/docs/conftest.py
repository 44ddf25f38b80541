"""What the examples of the pages run on: a tiny model under the default model's name, and a server with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_crush.cache_settings import CacheSettings
from glm_crush.cli.serve_models import start_models
from glm_crush.config import DEFAULT_MODEL, StorageSettings, load_settings
from glm_crush.encoder_settings import DEFAULT_EMBEDDING_MODEL
from glm_crush.guard_settings import GuardSettings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.mcp.part import McpPart
from glm_crush.serving.model_alias import ModelAliases
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.part import ServerPart
from glm_crush.serving.response_cache.part import ResponseCache
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.websocket.part import WebSocketPart
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.weights.store import ModelStore
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files
from tests.serving.scripted import loopback_server

__all__ = ["example_folder", "example_home", "loopback_server", "server_port", "shell_environment"]

TEXT = "The quick brown fox jumps over the lazy dog. " * 20


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose context is long enough for the examples."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("docs"), dtype="BF16", max_position_embeddings=2048)


@pytest.fixture(scope="session")
def _tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedding model."""
    folder = tmp_path_factory.mktemp("docs-encoder")
    return encoder_checkpoint("bert", folder, sentence=sentence_files(), max_position_embeddings=512)


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory, _tiny: Path, _tiny_encoder: Path) -> Path:
    """A GLM_HOME in which the default model is the tiny one, packed already."""
    home = tmp_path_factory.mktemp("docs-home")
    ModelStore(home).pull(str(_tiny), name=DEFAULT_MODEL)
    load_model(_tiny, cache_dir=home / "packed")
    ModelStore(home).pull(str(_tiny_encoder), name=DEFAULT_EMBEDDING_MODEL)
    return home


@pytest.fixture(scope="session")
def _server_home(tmp_path_factory: pytest.TempPathFactory, _tiny: Path, _tiny_encoder: Path) -> Path:
    """A GLM_HOME for the server, with a second model in its store."""
    home = tmp_path_factory.mktemp("docs-server-home")
    second = tiny_checkpoint("qwen3", home / "source", max_position_embeddings=2048)
    for path, name in ((_tiny, DEFAULT_MODEL), (_tiny_encoder, DEFAULT_EMBEDDING_MODEL), (second, "second")):
        ModelStore(home).pull(str(path), name=name)
    return home


@pytest.fixture
def example_home(_home: Path, glm_home: Path) -> Path:
    """A copy of that home as the test's GLM_HOME: examples may change it."""
    shutil.copytree(_home, glm_home, dirs_exist_ok=True)
    return glm_home


@pytest.fixture
def example_folder(tmp_path: Path, _tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of an example, with the files that the pages speak of."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text(TEXT)
    shutil.copytree(_tiny, folder / "my-model")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def shell_environment(example_home: Path, example_folder: Path) -> dict[str, str]:
    """Variables of a user with `glm` on the path; an index or hub that nobody may ask."""
    nowhere = "http://127.0.0.1:9"
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GLM_HOME": str(example_home),
        "HOME": str(example_folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PIP_INDEX_URL": nowhere,
        "HF_ENDPOINT": nowhere,
    }


@pytest.fixture
def server_port(_server_home: Path, loopback_server: Any, glm_home: Path) -> Iterator[Callable[[], str]]:
    """Call it for the port of a real server with the tiny model; started only then."""
    url, current = loopback_server
    started: list[ServedModels] = []
    database = LazyDatabase(StorageSettings(), glm_home)  # that of `glm keys`

    def start() -> str:
        if not started:
            flags = {"crush.threads": 1, "crush.kv_cache_tokens": 4096, "store.home": str(_server_home)}
            settings = load_settings(flags=flags)
            models = start_models(settings, [DEFAULT_MODEL, DEFAULT_EMBEDDING_MODEL], None, None)
            models.aliases = ModelAliases()
            started.append(models)
            parts: list[ServerPart] = [
                Observability(models, settings.observability),
                ResponseCache(models, CacheSettings(semantic="asked")),
            ]
            parts.append(GuardPart(models, GuardSettings(input="pii=redact")))
            parts += [WebSocketPart(models), McpPart(models, max_body_bytes=settings.api.max_body_bytes)]
            parts.append(GraphqlPart(models, settings.graphql))
            current.app = create_app(models, settings.api, database=database, parts=parts)
        return str(url.rpartition(":")[2])

    yield start
    asyncio.run(database.close())
    for models in started:
        asyncio.run(models.pool.close())
