"""Fixtures of the client's tests: a real server with tiny models, and each of the two clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm_crush import AsyncClient, Client
from glm_crush.client.async_transport import AsyncTransport
from glm_crush.client.attempts import RetryPolicy
from glm_crush.client.sync_transport import SyncTransport
from glm_crush.config import ApiSettings, CacheSettings, ObservabilitySettings, StorageSettings, load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_encoder import serve_loaded_encoder
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.openai.moderations import moderation_routes
from glm_crush.serving.part import ServerPart
from glm_crush.serving.reloading.reloading import Reloading
from glm_crush.serving.response_cache.part import ResponseCache
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.websocket.part import WebSocketPart
from glm_crush.storage.lazy import LazyDatabase
from tests.client.waiting import Waiting
from tests.models.tiny_encoder import encoder_checkpoint, sentence_files
from tests.serving.scripted import loopback_server, scripted_engine, start_server
from tests.serving.test_moderations import ShoutingModerator
from tests.serving.tiny_models import glm_models

__all__ = ["glm_models", "loopback_server", "scripted_engine", "start_server"]

KEY = "operator"
Open = Callable[..., Any]


class _Moderated(ServerPart):
    def routes(self) -> Any:
        return moderation_routes(ShoutingModerator())


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("client-encoder")
    path = encoder_checkpoint("bert", folder, sentence=sentence_files(), max_position_embeddings=512)
    loaded = load_model(path, cache_dir=folder / "packed")
    encoder = serve_loaded_encoder("vectors", loaded, load_settings(flags={"crush.threads": 1}))
    yield encoder
    encoder.close()


@pytest.fixture
def server(glm_models: Any, tiny_encoder: Any, loopback_server: Any, glm_home: Path) -> Iterator[str]:
    """The address of a server with everything a client can ask for; `KEY` opens all of it."""
    url, current = loopback_server
    database = LazyDatabase(StorageSettings(), glm_home)
    models = ServedModels(glm_models, encoders=ServedEncoders([tiny_encoder]))
    parts: list[ServerPart] = [Observability(models, ObservabilitySettings()), WebSocketPart(models), _Moderated()]
    parts.append(ResponseCache(models, CacheSettings(persist=False)))
    settings = load_settings(flags={"crush.threads": 1})
    reloading = Reloading(settings, lambda: load_settings(flags={"crush.threads": 2, "gateway.audit": "all"}))
    current.app = create_app(models, ApiSettings(key=KEY), database=database, parts=parts, reloading=reloading)
    yield url
    asyncio.run(database.close())


@pytest.fixture(params=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Makes a client of either kind; waits between attempts take no time, and are kept in `waits`."""
    loop = asyncio.new_event_loop()
    opened: list[Any] = []

    def connect(url: str, api_key: str | None = None, **options: Any) -> Any:
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)

        if request.param == "sync":
            client: Any = Client(url, api_key, **options)
            client._use(SyncTransport(client._transport.options, sleep=waits.append))
        else:
            waiting = AsyncClient(url, api_key, **options)
            waiting._use(AsyncTransport(waiting._transport.options, sleep=wait))
            client = Waiting(waiting, loop)
        opened.append(client)
        client.__dict__["waits"] = waits
        return client

    yield connect
    for client in opened:
        client.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def client(open_client: Open, server: str) -> Any:
    return open_client(server, KEY)


def steady(options: Any, **changes: Any) -> Any:
    """Options whose retries do not depend on chance."""
    return replace(options, retries=RetryPolicy(**changes))
