"""Fixtures of the gateway's tests: a whole server with its own protocol, database and background work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.app import create_app
from glm_crush.serving.http_server import HttpServer
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.server import bind, server_url
from glm_crush.storage.lazy import LazyDatabase
from tests.real_redis import _redis_port, redis_url
from tests.serving.scripted import RunningServer, ScriptedEngine, scripted_engine, scripted_model
from tests.storage.databases import database_url, open_database, postgres_server

__all__ = [
    "ADMIN",
    "_redis_port",
    "database_url",
    "open_database",
    "postgres_server",
    "redis_url",
    "scripted_engine",
    "serve",
]

ADMIN = {"authorization": "Bearer operator"}
Serve = Callable[..., RunningServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server; keyword arguments are gateway settings, `api` those of the API, `home` where its database is."""
    with ExitStack() as stack:

        def start(
            engine: ScriptedEngine | None = None,
            *,
            api: Any = None,
            home: Path = tmp_path,
            parts: Any = None,
            encoders: Any = None,
            **gateway: Any,
        ) -> RunningServer:
            engine = engine or ScriptedEngine()
            settings = ApiSettings(**{"port": 0, "key": "operator", "shutdown_timeout_seconds": 1.0, **(api or {})})
            limits = GatewaySettings(**gateway)
            bound = stack.enter_context(bind(settings))
            models = ServedModels([scripted_model(engine)], encoders=encoders)
            app = create_app(
                models,
                settings,
                parts=[] if parts is None else parts(models),
                gateway_settings=limits,
                database=LazyDatabase(StorageSettings(), home),
            )
            ready = threading.Event()
            server = HttpServer(app, [bound], settings, limits, on_ready=ready.set)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            assert ready.wait(20)

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            stack.callback(stop)
            return RunningServer(server_url(bound, secure=limits.tls_cert is not None), engine, stop, server)

        yield start
