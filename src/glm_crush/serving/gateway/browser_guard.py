"""Keeps web pages from using a server that asks for no key through the browser of whoever runs it.

A page anywhere can make a browser send requests to 127.0.0.1, and by pointing its own name there (DNS rebinding) also
read the replies. A caller without a key therefore has to call the server by an address or a local name, and must not be
a page from elsewhere. Programs that are no browsers send no Origin and are not concerned.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from glm_crush.errors import AccessDeniedError

__all__ = ["BrowserGuard", "names_in"]


def names_in(setting: str | None) -> frozenset[str]:
    """The entries of a setting with commas between them."""
    return frozenset(name.strip() for name in (setting or "").split(",") if name.strip())


class BrowserGuard:
    """Checks the headers of requests without a key.

    Args:
        hosts: further names by which the server may be called.
        origins: pages that may call, as for CORS; `*` is all.
    """

    def __init__(self, hosts: frozenset[str] = frozenset(), origins: frozenset[str] = frozenset()) -> None:
        self.allow(hosts, origins)

    def allow(self, hosts: frozenset[str], origins: frozenset[str]) -> None:
        """Others from now on; see the constructor."""
        self._hosts = hosts
        self._origins = origins

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse what a foreign page sent.

        Raises:
            AccessDeniedError: names what to set if it was meant.
        """
        host = _without_port(headers.get(b"host", b"").decode("latin-1"))
        if not (self._is_named(host) or _address(host)):
            raise AccessDeniedError(
                f"without a key this server is not called {host[:80]!r}; send a key, or add the name to gateway.hosts"
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._is_welcome(origin.decode("latin-1"), host):
            raise AccessDeniedError(
                f"pages from {origin[:80].decode('latin-1')!r} may not call without a key; "
                "send one, or add the origin to gateway.cors_origins"
            )

    def _is_welcome(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        scheme, separator, rest = origin.partition("://")
        if scheme not in ("http", "https"):
            return bool(separator)  # extensions and desktop programs; "null" may be any page
        name = _without_port(rest)
        address = _address(name)
        return name == host or self._is_named(name) or (address is not None and address.is_loopback)

    def _is_named(self, name: str) -> bool:
        """A name without a dot is one of the local network's: nobody outside can register it."""
        return "." not in name or name.endswith(".localhost") or name in self._hosts


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is; unlike a name, it cannot be pointed elsewhere."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
