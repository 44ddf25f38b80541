"""What of the gateway can change while the server runs: whose keys count, how much they may, what is written down.

Above: `build.py`, which also starts with it. Below: the gateway. Requests under way end by the rules they came in by.
"""

from __future__ import annotations

from dataclasses import replace

from glm_crush.config import ApiSettings, Settings
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.serving.gateway.exposure import requires_keys
from glm_crush.serving.gateway.gateway import Gateway
from glm_crush.serving.gateway.meter import Meter, Prices
from glm_crush.serving.gateway.records import KeyLimits
from glm_crush.serving.reloading.change import Commit, LiveChange

__all__ = ["adopt_settings", "gateway_change"]

_KEYS = (
    *("require_keys", "requests_per_minute", "tokens_per_minute", "concurrency", "max_failures_per_minute"),
    *("price_per_1k_prompt_tokens", "price_per_1k_completion_tokens", "unlimited_reply_tokens"),
    *("isolate_tenants", "audit"),
)


def gateway_change(gateway: Gateway, *, keeps_records: bool) -> LiveChange:
    """The settings that `adopt_settings` puts in force."""

    def prepare(settings: Settings) -> Commit:
        return lambda: adopt_settings(gateway, settings.api, settings.gateway, keeps_records=keeps_records)

    return LiveChange(frozenset({"api.key", *(f"gateway.{name}" for name in _KEYS)}), prepare)


def adopt_settings(gateway: Gateway, api: ApiSettings, settings: GatewaySettings, *, keeps_records: bool) -> None:
    """Have the gateway follow settings; without a database there is nothing to write an audit log to."""
    prices = Prices(prompt=settings.price_per_1k_prompt_tokens, completion=settings.price_per_1k_completion_tokens)
    gateway.books = replace(
        gateway.books,
        meter=Meter(prices),
        audit=settings.audit if keeps_records else "off",
        isolates_tenants=settings.isolate_tenants,
        unlimited_reply_tokens=settings.unlimited_reply_tokens,
    )
    gateway.ring.set_default_limits(
        KeyLimits(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            concurrency=settings.concurrency,
        )
    )
    gateway.set_rules(
        api.key,
        requires_keys=requires_keys(api, settings),
        max_failures_per_minute=settings.max_failures_per_minute,
    )
