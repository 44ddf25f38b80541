"""Fixtures of the storage tests."""

from __future__ import annotations

from tests.storage.databases import database_url, open_database, postgres_server

__all__ = ["database_url", "open_database", "postgres_server"]
