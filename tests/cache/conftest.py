"""Fixtures of the cache tests."""

from __future__ import annotations

from tests.real_redis import _redis_port, redis_url

__all__ = ["_redis_port", "redis_url"]
