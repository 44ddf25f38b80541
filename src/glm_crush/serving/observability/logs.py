"""Log lines as text for people or as JSON objects for machines.

Above: `server.py`. Below: `logging`; structlog renders the JSON. Lines hold ids, sizes and times, never
prompts, replies or keys, which no caller hands to a logger.
"""

from __future__ import annotations

import logging
from typing import Literal

from glm_crush.config import Settings
from glm_crush.serving.reloading.change import Commit, LiveChange

__all__ = ["configure_logs", "log_level_change"]


def configure_logs(level: str, log_format: Literal["text", "json"]) -> None:
    """Send everything from `level` on to standard error, one line each; takes the place of earlier settings."""
    handler = logging.StreamHandler()
    handler.setFormatter(_json_formatter() if log_format == "json" else _text_formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def log_level_change() -> LiveChange:
    """The least serious message that is logged can change while the server runs."""

    def prepare(settings: Settings) -> Commit:
        return lambda: logging.getLogger().setLevel(settings.api.log_level.upper())

    return LiveChange(frozenset({"api.log_level"}), prepare)


def _text_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)s %(message)s")


def _json_formatter() -> logging.Formatter:
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )
