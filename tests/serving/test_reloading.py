"""New settings come into force all at once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_crush.config import ApiSettings, CrushSettings, Settings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.records import Key, KeyLimits, Secret
from glm_crush.serving.reloading.change import Commit, LiveChange
from glm_crush.serving.reloading.reloading import Reloaded, Reloading

pytestmark = pytest.mark.requirement("S9", "O3")


def settings(*, audit: str = "keys", level: str = "info", num_seqs: int = 32) -> Settings:
    return Settings(
        gateway=GatewaySettings(audit=audit),  # type: ignore[arg-type]
        api=ApiSettings(log_level=level),  # type: ignore[arg-type]
        crush=CrushSettings(max_num_seqs=num_seqs),
    )


class Newest:
    """Settings as somebody last wrote them, and what was put in force of them."""

    def __init__(self, files: tuple[Path, ...] = ()) -> None:
        self.now = settings()
        self.in_force: list[object] = []
        self.reloading = Reloading(settings(), lambda: self.now, files)
        self.reloading.add(self.change("gateway.audit", lambda new: new.gateway.audit))

    def change(self, key: str, value: Callable[[Settings], object]) -> LiveChange:
        def prepare(new: Settings) -> Commit:
            if value(new) == "debug":
                raise ConfigError("not debug")
            return lambda: self.in_force.append(value(new))

        return LiveChange(frozenset({key}), prepare)

    def reload(self) -> Reloaded:
        return asyncio.run(self.reloading.reload())


def test_what_is_live_comes_into_force_and_the_rest_is_named() -> None:
    newest = Newest()
    newest.now = settings(audit="all", num_seqs=2)
    assert newest.reload() == Reloaded(["gateway.audit"], ["crush.max_num_seqs"])
    assert newest.in_force == ["all"]
    assert newest.reload() == Reloaded([], ["crush.max_num_seqs"])
    newest.now = settings(audit="all")
    assert newest.reload() == Reloaded([], [])
    assert newest.in_force == ["all"]


def test_one_setting_that_cannot_be_keeps_all_others_out() -> None:
    newest = Newest()
    newest.reloading.add(newest.change("api.log_level", lambda new: new.api.log_level))
    newest.now = settings(audit="all", level="debug")
    with pytest.raises(ConfigError, match="not debug"):
        newest.reload()
    assert newest.in_force == []
    newest.now = settings(audit="all", level="error")
    assert newest.reload().applied == ["api.log_level", "gateway.audit"]
    assert newest.in_force == ["all", "error"]


def test_what_settings_only_name_is_looked_at_every_time() -> None:
    newest, looked = Newest(), []

    def prepare(_: Settings) -> Commit:
        return lambda: looked.append("certificate")

    newest.reloading.add(LiveChange(frozenset(), prepare))
    assert newest.reload() == Reloaded([], [])
    assert looked == ["certificate"]


def test_what_takes_a_while_is_waited_for_after_everything_is_in_force() -> None:
    newest, seen = Newest(), []

    def prepare(_: Settings) -> Commit:
        async def slowly() -> dict[str, str]:
            await asyncio.sleep(0)
            seen.append(list(newest.in_force))
            return {"the model big": "there is no room"}

        return slowly

    newest.reloading = Reloading(settings(), lambda: newest.now)
    newest.reloading.add(LiveChange(frozenset({"crush.max_num_seqs"}), prepare))
    newest.reloading.add(newest.change("gateway.audit", lambda new: new.gateway.audit))
    newest.now = settings(audit="off", num_seqs=3)
    reloaded = newest.reload()
    assert seen == [["off"]]
    assert str(reloaded) == ("in force now: crush.max_num_seqs, gateway.audit; the model big failed: there is no room")


def test_a_file_that_appears_changes_or_goes_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    newest = Newest((file,))

    async def run() -> None:
        async with newest.reloading.running():
            for audit, act in (
                ("all", lambda: file.write_text("1")),
                ("off", lambda: file.write_text("two")),
                ("keys", file.unlink),
            ):
                newest.now = settings(audit=audit)
                act()
                while not newest.in_force or newest.in_force[-1] != audit:
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert newest.in_force == ["all", "off", "keys"]


def test_the_watch_over_the_files_outlives_an_error_that_nobody_expected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.toml"
    newest = Newest((file,))

    def fails(_: Settings) -> Commit:
        raise RuntimeError("nobody thought of this")

    newest.reloading.add(LiveChange(frozenset({"crush.max_num_seqs"}), fails))

    async def run() -> None:
        async with newest.reloading.running():
            newest.now = settings(num_seqs=2)
            file.write_text("1")
            while "nobody thought of this" not in caplog.text:
                await asyncio.sleep(0.01)
            newest.now = settings(audit="all")
            file.write_text("two")
            while newest.in_force != ["all"]:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert "the server goes on as before" in caplog.text


def test_limits_of_a_key_go_before_those_of_the_settings() -> None:
    def key(name: str, limits: KeyLimits) -> Key:
        secret = Secret(prefix=name, digest=name.encode(), created_at=0.0)
        return Key(id=name, application_id="a", name=name, scopes=("*",), secrets=(secret,), limits=limits)

    ring = KeyRing()
    ring.set_default_limits(KeyLimits(requests_per_minute=10, concurrency=2))
    ring.replace([key("own", KeyLimits(requests_per_minute=5)), key("none", KeyLimits())])

    def limits(name: str) -> KeyLimits | None:
        grant, _ = ring.find(name.encode(), 1.0)
        assert grant is not None
        return grant.limits

    assert limits("own") == KeyLimits(requests_per_minute=5, concurrency=2)
    assert limits("none") == KeyLimits(requests_per_minute=10, concurrency=2)
    ring.set_default_limits(KeyLimits())
    assert (limits("own"), limits("none")) == (KeyLimits(requests_per_minute=5), None)
