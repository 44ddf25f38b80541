"""The gateway's tables. Above: `key_store.py` and `account_store.py`. Below: `storage.schema`.

The audit log is append-only: the database itself refuses to change an entry, and lets only old ones be removed, by
date, when `gateway.audit_days` says so.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from glm_crush.storage.schema import Schema, add_column

__all__ = ["APPLICATIONS", "AUDIT", "KEYS", "REVISION", "SCHEMA", "SECRETS", "USAGE"]

_METADATA = MetaData()

APPLICATIONS = Table(
    "gateway_applications",
    _METADATA,
    Column("id", String(40), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
)

KEYS = Table(
    "gateway_keys",
    _METADATA,
    Column("id", String(40), primary_key=True),
    Column("application_id", String(40), ForeignKey("gateway_applications.id"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("scopes", Text, nullable=False),  # JSON list
    Column("models", Text, nullable=False),  # JSON list
    Column("limits", Text, nullable=False),  # JSON object, only what is limited
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

SECRETS = Table(
    "gateway_secrets",
    _METADATA,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("key_id", String(40), ForeignKey("gateway_keys.id"), nullable=False, index=True),
    Column("prefix", String(40), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
)

# One row: whoever changes keys raises it, so that servers see with one small read whether theirs are still right.
REVISION = Table(
    "gateway_revision",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)

AUDIT = Table(
    "gateway_audit",
    _METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("tenant", String(100)),
    Column("key_id", String(40)),
    Column("address", String(64)),
    Column("route", String(300), nullable=False),
    Column("model", String(200)),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("guard", String(1000)),
    Index("gateway_audit_time", "time"),
    Index("gateway_audit_key", "key_id", "id"),
)

USAGE = Table(
    "gateway_usage",
    _METADATA,
    Column("key_id", String(40), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("money", BigInteger, nullable=False),  # millionths
    Index("gateway_usage_day", "day"),
)

_SEALED = {
    "sqlite": (
        "CREATE TRIGGER gateway_audit_sealed BEFORE UPDATE ON gateway_audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION gateway_audit_refuse() RETURNS trigger AS $$ "
        "BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER gateway_audit_sealed BEFORE UPDATE ON gateway_audit "
        "FOR EACH ROW EXECUTE FUNCTION gateway_audit_refuse()",
    ),
}


_AUDIT_1 = Table(
    "gateway_audit",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("tenant", String(100)),
    Column("key_id", String(40)),
    Column("address", String(64)),
    Column("route", String(300), nullable=False),
    Column("model", String(200)),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Index("gateway_audit_time", "time"),
    Index("gateway_audit_key", "key_id", "id"),
)


def _version_1(connection: Connection) -> None:
    # Of the tables above, those that are not as they were then have a copy here.
    _METADATA.create_all(connection, [table for table in _METADATA.sorted_tables if table is not AUDIT])
    _AUDIT_1.create(connection)
    connection.execute(REVISION.insert().values(id=1, revision=1))
    for statement in _SEALED[connection.dialect.name]:
        connection.execute(text(statement))


def _version_2(connection: Connection) -> None:
    add_column(connection, "gateway_audit", Column("guard", String(1000)))


SCHEMA = Schema("gateway", _METADATA, (_version_1, _version_2))
