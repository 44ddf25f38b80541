"""From what a client is given, and the configuration for the rest, to how its server is reached.

Above: the two clients. Below: the configuration.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from glm_crush.client.attempts import RetryPolicy
from glm_crush.client.wire import ConnectionOptions
from glm_crush.config import load_settings

__all__ = ["connection_options"]


def connection_options(
    url: str | None,
    api_key: str | None,
    *,
    timeout_seconds: float | None,
    connect_seconds: float | None,
    max_retries: int | None,
    max_connections: int | None,
    verify: ssl.SSLContext | bool,
    headers: Mapping[str, str] | None,
) -> ConnectionOptions:
    """How the server is reached.

    Raises:
        ConfigError: the address or a setting cannot be.
    """
    settings = load_settings(
        flags={
            "client.url": url,
            "api.key": api_key,
            "client.timeout_seconds": timeout_seconds,
            "client.connect_seconds": connect_seconds,
            "client.max_retries": max_retries,
            "client.max_connections": max_connections,
        }
    )
    return ConnectionOptions(
        url=settings.server_url,
        api_key=settings.api.key,
        timeout_seconds=settings.client.timeout_seconds,
        connect_seconds=settings.client.connect_seconds,
        max_connections=settings.client.max_connections,
        verify=verify,
        headers=headers or {},
        retries=RetryPolicy(max_retries=settings.client.max_retries),
    )
