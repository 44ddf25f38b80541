"""The key of whoever owns this installation, for verbs that only operators may use.

Above: `logs`. Below: the keys in the database of this installation. Whoever can write that database can make any key,
so nothing is given away; the secret is kept beside it, in a file that only its owner can read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from glm_crush.errors import StorageError

if TYPE_CHECKING:
    from glm_crush.config import Settings

__all__ = ["operator_key"]

_APPLICATION = "operator of this machine"


def operator_key(settings: Settings, *, afresh: bool = False) -> str:
    """The secret, made when it is first needed; `afresh` when a server no longer knows the one that is kept.

    Raises:
        StorageError: the database or the file cannot be written.
    """
    path = settings.store.home / "operator.key"
    try:
        if not afresh and path.exists():
            return path.read_text(encoding="utf-8").strip()
        secret = _make(settings)
        _write_private(path, secret)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read or written: {error}") from error
    return secret


def _make(settings: Settings) -> str:
    from glm_crush.cli.key_database import with_key_store
    from glm_crush.serving.gateway.key_store import KeyStore

    async def work(store: KeyStore) -> str:
        known = {application.name: application for application in await store.applications()}
        application = known.get(_APPLICATION) or await store.register(_APPLICATION)
        _, secret = await store.create(application.id, "glm", scopes=("*", "admin"))
        return secret.text

    return with_key_store(settings, work)


def _write_private(path: Path, secret: str) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{secret}\n")
    part.replace(path)
