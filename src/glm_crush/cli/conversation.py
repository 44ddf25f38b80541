"""The state of a chat: messages, system prompt, sampling, switches; saved to and loaded from one JSON file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from glm_crush.cli.backend import Turn
from glm_crush.config import ContextPolicy
from glm_crush.errors import GlmError, RequestError
from glm_crush.types import Message, SamplingParams

__all__ = ["Conversation"]

_FORMAT = 1
_NAME = re.compile(r"[\w][\w.-]{0,63}")


@dataclass
class Conversation:
    """What the next turn is made of.

    Attributes:
        messages: user and assistant turns so far; the system prompt is kept apart.
        thinking: None = as the model's template does by itself.
        context_policy: what becomes of messages that no longer fit.
    """

    params: SamplingParams
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    thinking: bool | None = None
    verbose: bool = False
    keep_history: bool = True
    context_policy: ContextPolicy = "refuse"

    def ask(self, text: str) -> Turn:
        """Append a user message; the turn that answers it."""
        if not self.keep_history:
            self.messages.clear()
        self.messages.append({"role": "user", "content": text})
        return self.turn()

    def turn(self) -> Turn:
        """The conversation as it stands, to be answered."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return Turn(
            messages=[*system, *self.messages],
            params=self.params,
            thinking=self.thinking,
            context_policy=self.context_policy,
        )

    def answer(self, text: str) -> None:
        """Append the model's reply, whole or as far as it came; an empty one takes its question back."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()

    def retry(self) -> Turn:
        """Drop the last reply; the turn that answers its question again.

        Raises:
            RequestError: nothing has been asked.
        """
        while self.messages and self.messages[-1]["role"] != "user":
            self.messages.pop()
        if not self.messages:
            raise RequestError("there is nothing to retry; ask something first")
        return self.turn()

    def clear(self) -> None:
        """Forget the messages; system prompt and settings stay."""
        self.messages.clear()

    def save(self, folder: Path, name: str, model: str) -> Path:
        """Write the conversation to `folder/name.json`, complete or not at all.

        Raises:
            GlmError: the name is not one, or the file cannot be written.
        """
        path = _path(folder, name)
        document = {
            "format": _FORMAT,
            "model": model,
            "system": self.system,
            "thinking": self.thinking,
            "params": asdict(replace(self.params, stop=list(self.params.stop))),
            "messages": self.messages,
        }
        partial = path.with_suffix(".partial")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise GlmError(f"{path}: the chat cannot be saved: {error}") from error
        return path

    def load(self, folder: Path, name: str) -> str:
        """Replace everything but the switches with a saved chat; returns the model it was held with.

        Raises:
            GlmError: there is no such chat, or the file is not one.
        """
        path = _path(folder, name)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            messages, params = _checked_messages(document["messages"]), _checked_params(document["params"])
            system, thinking, model = document["system"], document["thinking"], str(document["model"])
        except FileNotFoundError:
            saved = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none yet"
            raise GlmError(f"there is no saved chat {name!r}; saved chats: {saved}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GlmError(f"{path}: this is not a saved chat: {error}") from error
        self.messages, self.params, self.system, self.thinking = messages, params, system, thinking
        return model


def _path(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise GlmError(f"{name!r} is not a name for a chat; use letters, digits, dots and dashes")
    return folder / f"{name}.json"


def _checked_messages(items: Any) -> list[Message]:
    messages: list[Message] = []
    for item in items:
        if item["role"] not in ("user", "assistant") or not isinstance(item["content"], str):
            raise ValueError(f"a message has the role {item['role']!r}")
        messages.append({"role": item["role"], "content": item["content"]})
    return messages


def _checked_params(values: dict[str, Any]) -> SamplingParams:
    known = {spec.name for spec in fields(SamplingParams)}
    if unknown := set(values) - known:
        raise ValueError(f"unknown parameters {', '.join(sorted(unknown))}")
    bias = {int(token_id): bias for token_id, bias in values.get("logit_bias", {}).items()}
    return SamplingParams(**{**values, "logit_bias": bias})
