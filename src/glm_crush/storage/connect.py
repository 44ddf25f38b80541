"""From a database URL to the database behind it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from glm_crush.errors import ConfigError
from glm_crush.storage.database import Database
from glm_crush.storage.sqlite import SqliteDatabase

__all__ = ["connect"]


def connect(url: str | None, folder: Path) -> Database:
    """The database that a URL names.

    Args:
        url: `sqlite:///path`, `postgresql://user:password@host:port/name`, or None for `folder`/glm.db.
        folder: made if it is not there.

    Raises:
        ConfigError: the URL is malformed, or its driver is not installed.
        StorageError: the file cannot be opened.
    """
    if url is None:
        return SqliteDatabase(folder / "glm.db")
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    kind = "" if parsed is None else parsed.get_backend_name()
    if parsed is not None and kind == "sqlite" and parsed.database:
        return SqliteDatabase(Path(parsed.database).expanduser())
    if parsed is not None and kind in ("postgresql", "postgres"):
        return _postgres(parsed)
    raise ConfigError(
        f"storage.url is of the kind {kind or 'unknown'!r}; give postgresql://user:password@host/name, "
        "sqlite:///path, or leave it unset"
    )


def _postgres(url: URL) -> Database:
    try:
        from glm_crush.storage.postgres import PostgresDatabase
    except ImportError as error:
        raise ConfigError(
            f"storage.url names a PostgreSQL server and {error.name} is not installed; "
            "pip install 'glm-crush[postgres]'"
        ) from error
    return PostgresDatabase(url)
