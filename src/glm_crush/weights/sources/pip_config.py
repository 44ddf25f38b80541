"""Which package index pip would use on this machine.

Below it: nothing of ours. Above it: the `pypi:` source. A pure function of the environment mapping and the files it
leads to; pip itself is not needed. Order as in pip: global files, the user's, the environment's (PIP_CONFIG_FILE),
then PIP_* variables.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from glm_crush.errors import ConfigError

__all__ = ["DEFAULT_INDEX", "PipSettings", "pip_settings"]

DEFAULT_INDEX = "https://pypi.org/simple"
_SYSTEM_FILE = Path("/etc/pip.conf")
_KEYS = ("index-url", "extra-index-url", "cert", "no-index")


@dataclass(frozen=True)
class PipSettings:
    """The part of pip's configuration that decides where a package comes from.

    Attributes:
        index_urls: simple indexes in the order pip asks them; may hold credentials. Empty when pip is told to use none.
        cert: file of certificate authorities, or None for the system's.
    """

    index_urls: tuple[str, ...] = (DEFAULT_INDEX,)
    cert: str | None = None


def pip_settings(
    environ: Mapping[str, str], *, prefix: str = sys.prefix, system_file: Path = _SYSTEM_FILE
) -> PipSettings:
    """Read pip's settings.

    Args:
        environ: HOME, XDG_CONFIG_HOME, XDG_CONFIG_DIRS, PIP_CONFIG_FILE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CERT.
        prefix: of the Python environment, whose pip.conf counts too.
        system_file: the machine's own configuration.

    Raises:
        ConfigError: a configuration file is malformed; names it.
    """
    found: dict[str, str] = {}
    for path in _files(environ, prefix, system_file):
        found |= _read(path)
    for key in _KEYS:
        value = environ.get("PIP_" + key.replace("-", "_").upper())
        if value:
            found[key] = value
    urls = [found.get("index-url", DEFAULT_INDEX), *found.get("extra-index-url", "").split()]
    if found.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        urls = []
    return PipSettings(tuple(url.rstrip("/") for url in urls), found.get("cert"))


def _files(environ: Mapping[str, str], prefix: str, system_file: Path) -> Iterator[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
        yield Path(folder, "pip", "pip.conf")
    yield system_file
    if home := environ.get("HOME"):
        yield Path(home, ".pip", "pip.conf")
        yield Path(environ.get("XDG_CONFIG_HOME") or Path(home, ".config"), "pip", "pip.conf")
    yield Path(prefix, "pip.conf")
    if named:
        yield Path(named)


def _read(path: Path) -> dict[str, str]:
    """`[global]`, then the sections of the commands that fetch a package. A file that cannot be opened has no say."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"pip configuration {path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for section in ("global", "install", "download"):
        for key in _KEYS:
            if parser.has_option(section, key):
                found[key] = parser.get(section, key)
            elif parser.has_option(section, key.replace("-", "_")):
                found[key] = parser.get(section, key.replace("-", "_"))
    return found
