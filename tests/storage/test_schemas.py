"""Migrations: forward only, each once, and every older version ends up as the newest."""

from __future__ import annotations

import asyncio
import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Index, Integer, MetaData, Table, Text, insert, inspect, select

import glm_crush
from glm_crush.errors import StorageError
from glm_crush.storage.schema import Schema, add_column, create_index
from tests.storage.databases import OpenDatabase

PACKAGE = Path(glm_crush.__file__).parent


def all_schemas() -> list[Schema]:
    """Every `NAME = Schema(` of the package."""
    schemas = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r"^(\w+) = Schema\(", path.read_text(), re.MULTILINE):
            module = ".".join(("glm_crush", *path.relative_to(PACKAGE).with_suffix("").parts))
            schemas.append(getattr(importlib.import_module(module), name))
    return schemas


SCHEMAS = all_schemas()
VERSIONS = [(schema, version) for schema in SCHEMAS for version in range(len(schema.migrations) + 1)]

NEW = MetaData()
NOTES = Table(
    "notes", NEW, Column("id", Integer, primary_key=True), Column("text", Text), Index("notes_by_text", "text")
)


def m001_notes(connection: Connection) -> None:
    Table("notes", MetaData(), Column("id", Integer, primary_key=True)).create(connection)


def m002_text(connection: Connection) -> None:
    add_column(connection, "notes", Column("text", Text))
    create_index(connection, "notes_by_text", "notes", "text")


NOTES_SCHEMA = Schema("notes", NEW, (m001_notes, m002_text))


def described(connection: Connection, schema: Schema) -> dict[str, Any]:
    """The tables of a schema as the database has them."""
    seen = inspect(connection)
    tables: dict[str, Any] = {}
    for name in sorted(schema.metadata.tables):
        assert seen.has_table(name), f"{name} is missing"
        columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in seen.get_columns(name)}
        indexes = sorted((str(i["name"]), tuple(i["column_names"]), bool(i["unique"])) for i in seen.get_indexes(name))
        keys = tuple(seen.get_pk_constraint(name)["constrained_columns"])
        foreign = sorted((tuple(k["constrained_columns"]), k["referred_table"]) for k in seen.get_foreign_keys(name))
        tables[name] = (columns, indexes, keys, foreign)
    return tables


def test_a_migration_adds_what_is_missing_and_keeps_the_rows(open_database: OpenDatabase) -> None:
    old = Schema("notes", MetaData(), (m001_notes,))

    async def scenario() -> list[Any]:
        async with open_database() as database:
            await database.install(old)
            await database.write(lambda c: c.exec_driver_sql("INSERT INTO notes VALUES (1)"))
        async with open_database() as database:
            await database.install(NOTES_SCHEMA)
            await database.write(lambda c: c.execute(insert(NOTES).values(id=2, text="b")))
        async with open_database() as database:
            await database.install(NOTES_SCHEMA)  # nothing is left to do
            return await database.read(lambda c: [tuple(row) for row in c.execute(select(NOTES).order_by("id"))])

    assert asyncio.run(scenario()) == [(1, None), (2, "b")]


def test_tables_of_a_newer_program_are_left_alone(open_database: OpenDatabase) -> None:
    async def scenario() -> None:
        async with open_database() as database:
            await database.install(NOTES_SCHEMA)
        async with open_database() as database:
            with pytest.raises(StorageError, match="notes are of version 2 and this program knows 1"):
                await database.install(replace(NOTES_SCHEMA, migrations=(m001_notes,)))

    asyncio.run(scenario())


def test_a_migration_that_fails_leaves_the_version_before_it(open_database: OpenDatabase) -> None:
    def m003_broken(connection: Connection) -> None:
        add_column(connection, "notes", Column("more", Text))
        raise ValueError("no")

    async def scenario() -> Any:
        async with open_database() as database:
            await database.install(NOTES_SCHEMA)
        async with open_database() as database:
            with pytest.raises(ValueError, match="no"):
                await database.install(replace(NOTES_SCHEMA, migrations=(m001_notes, m002_text, m003_broken)))
            await database.install(NOTES_SCHEMA)
            return await database.read(lambda c: described(c, NOTES_SCHEMA)["notes"][0])

    assert list(asyncio.run(scenario())) == ["id", "text"]


def test_two_servers_that_start_together_migrate_once(open_database: OpenDatabase) -> None:
    async def scenario() -> None:
        async with open_database() as one, open_database() as other:
            await asyncio.gather(one.install(NOTES_SCHEMA), other.install(NOTES_SCHEMA))

    asyncio.run(scenario())


def test_the_names_of_the_packages_schemas_and_tables_are_unique() -> None:
    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS)
    tables = [name for schema in SCHEMAS for name in schema.metadata.tables]
    assert len(set(tables)) == len(tables)


@pytest.mark.parametrize(
    ("schema", "version"), [*VERSIONS, (NOTES_SCHEMA, 1)], ids=lambda v: v.name if isinstance(v, Schema) else f"from{v}"
)
def test_every_older_version_becomes_the_newest(open_database: OpenDatabase, schema: Schema, version: int) -> None:
    """The tables after the missing migrations are those that the program's `Table` objects describe."""
    older = replace(schema, migrations=schema.migrations[:version])

    async def scenario() -> tuple[Any, Any]:
        async with open_database() as database:
            if version:
                await database.install(older)
        async with open_database() as database:
            await database.install(schema)
            migrated = await database.read(lambda c: described(c, schema))
            await database.write(schema.metadata.drop_all)
            await database.write(schema.metadata.create_all)
            return migrated, await database.read(lambda c: described(c, schema))

    migrated, made = asyncio.run(scenario())
    assert migrated == made
