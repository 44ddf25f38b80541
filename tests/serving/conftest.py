"""Fixtures of the server tests."""

from __future__ import annotations

from tests.serving.scripted import loopback_server, scripted_engine, start_server
from tests.serving.tiny_models import glm_models
from tests.storage.databases import database_url, open_database, postgres_server

__all__ = [
    "database_url",
    "glm_models",
    "loopback_server",
    "open_database",
    "postgres_server",
    "scripted_engine",
    "start_server",
]
