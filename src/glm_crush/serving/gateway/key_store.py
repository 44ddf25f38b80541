"""Applications and keys as rows.

Above: `admin.py`, `glm keys` and `key_watch.py`. Below: `storage.database`. Every change raises the revision, by which
other servers see it. A secret leaves `create` and `rotate` once; only its hash is kept.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from glm_crush.errors import InvalidParameterError, RecordNotFoundError
from glm_crush.serving.gateway.records import Application, Key, KeyLimits, Secret
from glm_crush.serving.gateway.scopes import check_scopes
from glm_crush.serving.gateway.secrets import NewSecret, SecretHasher, new_secret
from glm_crush.serving.gateway.tables import APPLICATIONS, KEYS, REVISION, SCHEMA, SECRETS
from glm_crush.storage.database import Database

__all__ = ["KeyChange", "KeyStore", "Snapshot"]

_LONGEST_OVERLAP_SECONDS = 31_536_000
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999, where calendars end


@dataclass(frozen=True)
class Snapshot:
    """All keys as of one revision."""

    revision: int
    keys: Sequence[Key]


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """What may be changed of a key; None = as it is."""

    name: str | None = None
    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    limits: KeyLimits | None = None
    expires_at: float | None = None


class KeyStore:
    """The rows of one database.

    Args:
        database: open; `open()` installs the tables.
        hasher: makes of secrets what is stored.
    """

    def __init__(
        self, database: Database, hasher: SecretHasher | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._hasher = hasher or SecretHasher()
        self._now = now

    async def open(self) -> None:
        """Make or renew the tables; a second call costs nothing. Raises StorageError."""
        await self._database.install(SCHEMA)

    async def register(self, name: str) -> Application:
        """A new application.

        Raises:
            InvalidParameterError: the name is empty, too long or taken.
        """
        _check_name(name, "name")
        application = Application(id=_new_id("app"), name=name, created_at=self._now())
        try:
            await self._database.write(
                lambda connection: connection.execute(insert(APPLICATIONS).values(**asdict(application)))
            )
        except IntegrityError:
            raise InvalidParameterError(
                f"there is an application {name!r} already; choose another name", parameter="name"
            ) from None
        return application

    async def applications(self) -> list[Application]:
        """All of them, oldest first."""
        statement = select(APPLICATIONS).order_by(APPLICATIONS.c.created_at, APPLICATIONS.c.id)
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [Application(**row) for row in rows]

    async def application(self, id_or_name: str) -> Application:
        """One application. Raises RecordNotFoundError."""
        for application in await self.applications():
            if id_or_name in (application.id, application.name):
                return application
        raise RecordNotFoundError(f"there is no application {id_or_name!r:.60}")

    async def create(
        self,
        application_id: str,
        name: str,
        *,
        scopes: tuple[str, ...] = ("*",),
        models: tuple[str, ...] = (),
        limits: KeyLimits | None = None,
        expires_at: float | None = None,
    ) -> tuple[Key, NewSecret]:
        """A new key with its first secret, which nobody can ask for again.

        Raises:
            InvalidParameterError: a scope, name or time that cannot be. RecordNotFoundError: no such application.
        """
        check_scopes(scopes)
        _check_name(name, "name")
        application = await self.application(application_id)
        secret = new_secret()
        key = Key(
            id=_new_id("key"),
            application_id=application.id,
            name=name,
            scopes=scopes,
            models=models,
            limits=limits or KeyLimits(),
            created_at=self._now(),
            expires_at=self._future(expires_at),
        )

        def write(connection: Connection) -> None:
            connection.execute(insert(KEYS).values(_key_row(key)))
            self._add_secret(connection, key.id, secret)
            _raise_revision(connection)

        await self._database.write(write)
        return await self.key(key.id), secret

    async def rotate(self, key_id: str, overlap_seconds: float) -> tuple[Key, NewSecret]:
        """A new secret for a key; the older ones go on working for so long.

        Raises:
            RecordNotFoundError: no such key. InvalidParameterError: it is revoked, or the time is out of range.
        """
        if not 0 <= overlap_seconds <= _LONGEST_OVERLAP_SECONDS:
            raise InvalidParameterError(
                f"overlap_seconds is {overlap_seconds:g}; give 0 to {_LONGEST_OVERLAP_SECONDS}, a year",
                parameter="overlap_seconds",
            )
        key = await self.key(key_id)
        if key.revoked_at is not None:
            raise InvalidParameterError(f"the key {key.id} is revoked; create a new one", parameter="key_id")
        secret, ends = new_secret(), self._now() + overlap_seconds

        def write(connection: Connection) -> None:
            is_longer = (SECRETS.c.expires_at.is_(None)) | (SECRETS.c.expires_at > ends)
            connection.execute(update(SECRETS).where(SECRETS.c.key_id == key.id, is_longer).values(expires_at=ends))
            self._add_secret(connection, key.id, secret)
            _raise_revision(connection)

        await self._database.write(write)
        return await self.key(key.id), secret

    async def change(self, key_id: str, wanted: KeyChange) -> Key:
        """Other rights or limits for a key; its secrets stay. Raises as `create`."""
        key = await self.key(key_id)
        if wanted.scopes is not None:
            check_scopes(wanted.scopes)
        if wanted.name is not None:
            _check_name(wanted.name, "name")
        given = {name: value for name, value in vars(wanted).items() if value is not None}
        changed = replace(key, **{**given, "expires_at": self._future(wanted.expires_at) or key.expires_at})
        await self._write_key(changed)
        return await self.key(key.id)

    async def revoke(self, key_id: str) -> Key:
        """End a key with all its secrets, now. Revoking it again changes nothing. Raises RecordNotFoundError."""
        key = await self.key(key_id)
        if key.revoked_at is None:
            await self._write_key(replace(key, revoked_at=self._now()))
        return await self.key(key.id)

    async def keys(self, application_id: str | None = None) -> list[Key]:
        """All keys, or those of one application, oldest first."""
        found = (await self.snapshot()).keys
        return [key for key in found if application_id in (None, key.application_id)]

    async def key(self, key_id: str) -> Key:
        """One key, by its id or the public part of one of its secrets. Raises RecordNotFoundError."""
        for key in (await self.snapshot()).keys:
            if key_id == key.id or any(key_id == secret.prefix for secret in key.secrets):
                return key
        raise RecordNotFoundError(f"there is no key {key_id!r:.60}; `glm keys list` shows them")

    async def revision(self) -> int:
        """Raised by every change."""
        revision = await self._database.read(lambda connection: connection.scalar(select(REVISION.c.revision)))
        return int(revision or 0)

    async def snapshot(self) -> Snapshot:
        """All keys with their revision, consistent with each other."""
        return await self._database.read(_read_snapshot)

    async def touch(self, last_used: Mapping[bytes, float]) -> None:
        """Note when secrets were used; no new revision, since it changes nobody's rights."""

        def write(connection: Connection) -> None:
            for digest, moment in last_used.items():
                connection.execute(update(SECRETS).where(SECRETS.c.digest == digest).values(last_used_at=moment))

        await self._database.write(write)

    def _add_secret(self, connection: Connection, key_id: str, secret: NewSecret) -> None:
        digest = self._hasher.digest(secret.text.encode())
        connection.execute(
            insert(SECRETS).values(digest=digest, key_id=key_id, prefix=secret.prefix, created_at=self._now())
        )

    async def _write_key(self, key: Key) -> None:
        def write(connection: Connection) -> None:
            connection.execute(update(KEYS).where(KEYS.c.id == key.id).values(_key_row(key)))
            _raise_revision(connection)

        await self._database.write(write)

    def _future(self, expires_at: float | None) -> float | None:
        if expires_at is not None and expires_at <= self._now():
            raise InvalidParameterError(f"expires_at is {expires_at:g}, which is past", parameter="expires_at")
        if expires_at is not None and expires_at > _LAST_MOMENT:
            raise InvalidParameterError(
                f"expires_at is {expires_at:g}; give seconds since 1970, at most {_LAST_MOMENT}, or leave it out",
                parameter="expires_at",
            )
        return expires_at


def _read_snapshot(connection: Connection) -> Snapshot:
    secrets: dict[str, list[Secret]] = {}
    for row in connection.execute(select(SECRETS).order_by(SECRETS.c.created_at)).mappings():
        fields = dict(row)
        secrets.setdefault(fields.pop("key_id"), []).append(Secret(**fields))
    rows = connection.execute(select(KEYS).order_by(KEYS.c.created_at, KEYS.c.id)).mappings()
    keys = [_key(row, tuple(secrets.get(row["id"], ()))) for row in rows]
    return Snapshot(int(connection.scalar(select(REVISION.c.revision)) or 0), keys)


def _key(row: RowMapping, secrets: tuple[Secret, ...]) -> Key:
    fields: dict[str, Any] = dict(row)
    scopes, models, limits = (json.loads(fields.pop(name)) for name in ("scopes", "models", "limits"))
    return Key(**fields, scopes=tuple(scopes), models=tuple(models), limits=KeyLimits(**limits), secrets=secrets)


def _key_row(key: Key) -> dict[str, Any]:
    row = {column.name: getattr(key, column.name) for column in KEYS.columns}
    limits = {name: value for name, value in asdict(key.limits).items() if value is not None}
    return {**row, "scopes": json.dumps(key.scopes), "models": json.dumps(key.models), "limits": json.dumps(limits)}


def _raise_revision(connection: Connection) -> None:
    connection.execute(update(REVISION).values(revision=REVISION.c.revision + 1))


def _check_name(name: str, parameter: str) -> None:
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise InvalidParameterError(f"{parameter} is {name!r:.120}; give 1 to 100 characters", parameter=parameter)


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:16]}"
