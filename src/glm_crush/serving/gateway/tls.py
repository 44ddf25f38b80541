"""HTTPS: a certificate that can be renewed while the server runs.

Above: `server.py`. Below: Python's ssl. A new certificate is checked in a context of its own first, so that a mistake
leaves the old one in force.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from glm_crush.config import Settings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.reloading.change import Commit, LiveChange

__all__ = ["Certificate"]


class Certificate:
    """The certificate and key of a server.

    Attributes:
        context: for the listener; connections made after a change get the new certificate.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises ConfigError when the files cannot be read or do not belong together."""
        self._cert, self._key = cert, key
        self.context = self._load()

    @classmethod
    def of(cls, settings: GatewaySettings) -> Certificate | None:
        """The one that settings name, or None for plain HTTP.

        Raises:
            ConfigError: only one of the two files is named, or they cannot be used.
        """
        if settings.tls_cert is None and settings.tls_key is None:
            return None
        if settings.tls_cert is None or settings.tls_key is None:
            raise ConfigError("gateway.tls_cert and gateway.tls_key go together; set both or none")
        return cls(settings.tls_cert, settings.tls_key)

    def live_change(self) -> LiveChange:
        """Both files are read whenever settings are; one that cannot be used leaves the old one in force."""

        def prepare(_: Settings) -> Commit:
            self._load()
            return lambda: self.context.load_cert_chain(self._cert, self._key)

        return LiveChange(frozenset(), prepare)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self._cert} and {self._key} cannot serve HTTPS: {error}") from error
        return context
