"""Tables with a history: each subsystem owns a `Schema`, which says how every older version becomes the current one.

A subsystem keeps in one module its tables (SQLAlchemy `Table` objects in one `MetaData`, for queries) and its
migrations (functions of a connection, for the database), and calls `await database.install(SCHEMA)` when it opens. A
migration is never edited once it has been released: it says what the tables were, not what they are.
tests/storage/test_schemas.py finds every `Schema` of the package and checks that each older version ends up the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Index, Integer, MetaData, String, Table, insert, select, text, update
from sqlalchemy.schema import CreateColumn

from glm_crush.errors import StorageError

__all__ = ["Migration", "Schema", "add_column", "create_index", "migrate"]

Migration = Callable[[Connection], None]

_BOOK = MetaData()
_VERSIONS = Table(
    "schema_versions", _BOOK, Column("name", String(64), primary_key=True), Column("version", Integer, nullable=False)
)
_LOCK = 0x474C4D  # any number that nobody else takes for an advisory lock of PostgreSQL


@dataclass(frozen=True)
class Schema:
    """The tables of one subsystem.

    Attributes:
        name: unique. metadata: the tables as they are now.
        migrations: the first makes the tables of version 1, each further one the next version.
    """

    name: str
    metadata: MetaData
    migrations: Sequence[Migration]


def migrate(connection: Connection, schema: Schema) -> None:
    """Apply the migrations that are missing, all in the caller's transaction.

    Raises:
        StorageError: the tables are newer than this program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})  # servers start together
    _BOOK.create_all(connection)
    known = connection.scalar(select(_VERSIONS.c.version).where(_VERSIONS.c.name == schema.name))
    newest = len(schema.migrations)
    if known is not None and known > newest:
        raise StorageError(
            f"the tables of {schema.name} are of version {known} and this program knows {newest}; "
            "run the newer GLM-Crush that wrote them"
        )
    for migration in schema.migrations[known or 0 :]:
        migration(connection)
    if known is None:
        connection.execute(insert(_VERSIONS).values(name=schema.name, version=newest))
    elif known < newest:
        connection.execute(update(_VERSIONS).where(_VERSIONS.c.name == schema.name).values(version=newest))


def add_column(connection: Connection, table: str, column: Column[object]) -> None:
    """For migrations: a new column, nullable or with a server default."""
    Table(table, MetaData(), column)
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {definition}")


def create_index(connection: Connection, name: str, table: str, *columns: str) -> None:
    """For migrations: a new index over existing columns."""
    described = Table(table, MetaData(), autoload_with=connection)
    Index(name, *(described.c[column] for column in columns)).create(connection)
