"""The settings of the gateway: keys, limits, records, and what a client may cost the server.

Above: `config.py`, of which this is a section. It knows nothing of what the values do.
"""

# ruff: noqa: RUF009 (setting returns a dataclass field)
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm_crush.config_field import setting

__all__ = ["GatewaySettings"]


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Who may use the server, how much, and what a client may cost it."""

    require_keys: bool = setting(False, "whether callers on this machine need a key too: true or false")
    hash_key: str | None = setting(
        None, "mixed into the stored hashes of keys; the same for all servers, and kept for ever", secret=True
    )
    redis_url: str | None = setting(
        None,
        "Redis or Valkey where several servers share limits: redis://host:6379/0; unset = each counts alone",
        secret=True,
    )
    requests_per_minute: int | None = setting(None, "limit of keys that have none of their own; unset = none", low=1)
    tokens_per_minute: int | None = setting(None, "limit of keys that have none of their own; unset = none", low=1)
    concurrency: int | None = setting(
        None,
        "requests at the same time, for keys that have no such limit of their own; unset = none",
        low=1,
    )
    max_failures_per_minute: int = setting(20, "wrong keys that one address may send", low=1)
    price_per_1k_prompt_tokens: float = setting(0.0, "money, for budgets in money", low=0)
    price_per_1k_completion_tokens: float = setting(0.0, "money, for budgets in money", low=0)
    unlimited_reply_tokens: int = setting(256, "tokens reserved for a reply without max_tokens", low=0)
    isolate_tenants: bool = setting(False, "whether applications do not share cached prompts: true or false")
    audit: Literal["keys", "all", "off"] = setting("keys", "requests that are logged: those with keys, all, or off")
    audit_days: float | None = setting(90.0, "how long the audit log is kept; none = for ever", low=0)
    cors_origins: str | None = setting(None, "web pages that may call: origins with commas between, or *")
    hosts: str | None = setting(None, "names, with commas between, by which callers without a key may call the server")
    trusted_proxies: str | None = setting(None, "proxies whose X-Forwarded-For is believed: addresses with commas")
    tls_cert: Path | None = setting(None, "certificate chain (PEM) to serve HTTPS with")
    tls_key: Path | None = setting(None, "private key (PEM) of tls_cert")
    max_connections: int | None = setting(None, "open connections; unset = what the limit of open files allows", low=1)
    max_headers: int = setting(100, "headers of one request", low=1)
    max_header_bytes: int = setting(32 * 2**10, "bytes of its path and headers", low=256)
    header_timeout_seconds: float = setting(10.0, "how long a request's headers may take", low=0.01)
    body_timeout_seconds: float = setting(
        20.0, "how long its body may take, and a second more for each 1,000 bytes", low=0.01
    )
    write_timeout_seconds: float = setting(
        30.0, "how long a client may read nothing while there is something to read", low=0.01
    )
    idle_timeout_seconds: float = setting(15.0, "how long a connection may wait for its next request", low=0.01)
    request_timeout_seconds: float | None = setting(
        3600.0, "how long a request may take in all; none = any time", low=0.01
    )
