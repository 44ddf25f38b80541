"""The key of whoever owns this installation, for verbs that only operators may use.

Above: `logs`, `stop`. Below: the keys in the database of this installation. Whoever can write that database
can make any key, so nothing is given away; the secret is kept beside it, in a file that only its owner can read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from glm_crush.errors import StorageError

if TYPE_CHECKING:
    from glm_crush.client import Client
    from glm_crush.config import Settings

__all__ = ["as_operator", "operator_key"]

Answer = TypeVar("Answer")

_APPLICATION = "operator of this machine"


def as_operator(settings: Settings, ask: Callable[[Client], Answer]) -> Answer:
    """Ask the server; with the operator's key if it is this installation's and wants one, and none was given.

    Raises:
        AccessDeniedError, AuthenticationError: it wants another key.
    """
    from glm_crush.client import Client
    from glm_crush.client.wire import is_loopback
    from glm_crush.errors import AccessDeniedError, AuthenticationError

    with Client.from_settings(settings) as client:
        try:
            return ask(client)
        except (AccessDeniedError, AuthenticationError):
            if settings.api.key is not None or not is_loopback(client.url):
                raise
    with_key = replace(settings, api=replace(settings.api, key=operator_key(settings)))
    with Client.from_settings(with_key) as client:
        return ask(client)


def operator_key(settings: Settings) -> str:
    """The secret of a key that may do everything; made when it is first needed, and again when it has been revoked.

    Raises:
        StorageError: the database or the file cannot be read or written.
    """
    path = settings.store.home / "operator.key"
    try:
        kept = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        secret = _valid(settings, kept)
        if secret != kept:
            _write_private(path, secret)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read or written: {error}") from error
    return secret


def _valid(settings: Settings, kept: str) -> str:
    """The kept secret if its key is in force, else a new one."""
    from glm_crush.cli.key_database import with_key_store
    from glm_crush.serving.gateway.key_store import KeyStore

    async def work(store: KeyStore) -> str:
        public = kept.rpartition("_")[0]
        for key in await store.keys():
            if key.revoked_at is None and any(secret.prefix == public for secret in key.secrets):
                return kept
        known = {application.name: application for application in await store.applications()}
        application = known.get(_APPLICATION) or await store.register(_APPLICATION)
        _, made = await store.create(application.id, "glm", scopes=("*", "admin"))
        return made.text

    return with_key_store(settings, work)


def _write_private(path: Path, secret: str) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{secret}\n")
    part.replace(path)
