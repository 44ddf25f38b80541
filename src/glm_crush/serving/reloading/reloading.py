"""Reads the configuration again and puts in force what can change while the server runs.

Above: the composition root. Below: `change.py`. Three things lead here: SIGHUP, `POST /admin/v1/reload`, and a
configuration file that is another. Every change is checked before the first comes into force, so a mistake anywhere
changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.config import Settings
from glm_crush.errors import ConfigError, GlmError
from glm_crush.serving.errors import ApiError
from glm_crush.serving.json_http import json_response
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.part import ServerPart
from glm_crush.serving.reloading.change import LiveChange
from glm_crush.serving.routing import ApiRoute

__all__ = ["Reloaded", "Reloading"]

_POLL_SECONDS = 0.5
_HIDDEN = "********"

_log = logging.getLogger("glm_crush.serving")


@dataclass(frozen=True)
class Reloaded:
    """What became of new settings.

    Attributes:
        applied: names of those in force now. needs_restart: of those that are not. failed: what of those in force could
            not be had, such as a model, and why.
    """

    applied: Sequence[str]
    needs_restart: Sequence[str]
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        said = f"in force now: {', '.join(self.applied)}" if self.applied else "nothing to change"
        said += f"; needs a restart: {', '.join(self.needs_restart)}" if self.needs_restart else ""
        return said + "".join(f"; {what} failed: {why}" for what, why in self.failed.items())


class Reloading(ServerPart):
    """Owns which settings are in force.

    Args:
        settings: those that the server was started with.
        load: reads them again, from the same places. Raises ConfigError.
        files: when one of them changes, appears or goes, the settings are read again.
    """

    def __init__(self, settings: Settings, load: Callable[[], Settings], files: Sequence[Path] = ()) -> None:
        self._load = load
        self._files = files
        self._changes: list[LiveChange] = []
        self._in_force = {setting.key: setting.value for setting in settings.describe()}
        self._newest = settings
        self._seen = self._signatures()
        self._lock = asyncio.Lock()
        self._begun: set[asyncio.Task[None]] = set()

    def add(self, *changes: LiveChange) -> None:
        """Further settings can change from now on."""
        self._changes += changes

    def routes(self) -> list[ApiRoute]:
        """For administrators."""
        reload = Endpoint("POST", "/admin/v1/reload", "Read the configuration again and put in force what can be.")
        show = Endpoint("GET", "/admin/v1/config", "The settings in force, and those that wait for a restart.")
        return [(reload, self._reload), (show, self._show)]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks at the files until the block ends."""
        return self._running()

    def begin(self) -> None:
        """Reload without waiting for it; the outcome is logged."""
        task = asyncio.create_task(self._reload_and_log())
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def reload(self) -> Reloaded:
        """Read the settings and put in force what can change now.

        Raises:
            ConfigError: they cannot be; nothing has changed.
        """
        async with self._lock:
            self._seen = self._signatures()
            settings = await asyncio.to_thread(self._load)
            values = {setting.key: setting.value for setting in settings.describe()}
            different = {key for key, value in values.items() if value != self._in_force[key]}
            wanted = [change for change in self._changes if not change.keys or change.keys & different]
            commits = [change.prepare(settings) for change in wanted]
            outcomes = [commit() for commit in commits]
            live = different & {key for change in self._changes for key in change.keys}
            self._in_force |= {key: values[key] for key in live}
            self._newest = settings
            failed: dict[str, str] = {}
            for outcome in outcomes:
                if outcome is not None:
                    failed |= await outcome
        reloaded = Reloaded(sorted(live), sorted(different - live), failed)
        _log.log(logging.ERROR if failed else logging.INFO, "the configuration has been read again; %s", reloaded)
        return reloaded

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except GlmError as error:
            _log.error("the configuration has not changed: %s", error)
        except Exception:  # noqa: BLE001 - nobody waits for this task: it would end, and the watch over the files with it
            _log.exception("the configuration could not be read again; this is a bug, and the server goes on as before")

    async def _reload(self, _: Request) -> Response:
        try:
            reloaded = await self.reload()
        except ConfigError as error:
            _log.error("the configuration has not changed: %s", error)
            raise ApiError(400, f"the configuration has not changed: {error}", code="invalid_configuration") from error
        names = {"applied": list(reloaded.applied), "needs_restart": list(reloaded.needs_restart)}
        return json_response({"object": "reload", **names, "failed": dict(reloaded.failed)})

    async def _show(self, _: Request) -> Response:
        live = {key for change in self._changes for key in change.keys}
        rows = []
        for setting in self._newest.describe():
            in_force = self._in_force[setting.key]
            row = {"key": setting.key, "value": _shown(in_force, setting.secret), "origin": setting.origin}
            row |= {"live": setting.key in live, "needs_restart": setting.value != in_force}
            rows.append(row)
        return json_response({"object": "list", "data": rows})

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch_files(), name="glm-config-watch") if self._files else None
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch
            if self._begun:
                await asyncio.wait(self._begun)

    async def _watch_files(self) -> None:
        """A file that is still being written has another signature at the next look; only one that rests is read."""
        before = self._seen
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = self._signatures()
            if now == before and now != self._seen:
                await self._reload_and_log()
            before = now

    def _signatures(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._files]


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _shown(value: object, secret: bool) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _HIDDEN if secret else str(value)
