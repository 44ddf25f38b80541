"""Fixtures of the server tests."""

from __future__ import annotations

from tests.serving.scripted import loopback_server, scripted_engine, start_server

__all__ = ["loopback_server", "scripted_engine", "start_server"]
