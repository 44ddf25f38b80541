"""What every test shares: a home folder of its own, a fixed seed, no network."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# No deadline: a test never depends on how busy the machine is. No example database in the checkout.
settings.register_profile("glm", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("glm")

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the live comparisons with transformers to `make oracle` (`-m oracle`)."""
    if "oracle" in (config.option.markexpr or ""):
        return
    kept = [item for item in items if item.get_closest_marker("oracle") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("oracle")])
    items[:] = kept


@pytest.fixture(autouse=True)
def glm_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty GLM_HOME, so that no test reads or writes the user's models and settings."""
    home = tmp_path / "glm-home"
    home.mkdir()
    for name in ("GLM_HOME", "GLM_FORCE_KERNELS", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLM_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine is an error that names the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to connect to {address!r}; tests use no network")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20261121)
