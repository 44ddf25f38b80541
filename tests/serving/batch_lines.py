"""Input files of batches."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["CHAT", "as_file", "line"]

CHAT = "/v1/chat/completions"


def line(name: str, text: str = "Hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    if url == CHAT:
        body = {"messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def as_file(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)
