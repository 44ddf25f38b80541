"""A name for a served model with defaults of its own: system message, sampling, template.

Above: `ServedModels`, and Ollama's create and copy. Below: the chat template. Each alias is one JSON file, so it
outlives the server; weights are never copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.chat.reply_format import ReplyFormat
from glm_crush.errors import ConfigError, InvalidParameterError, TemplateError
from glm_crush.serving.served_model import ServedModel
from glm_crush.types import Message
from glm_crush.weights.atomic_file import AtomicFile
from glm_crush.weights.stored_model import check_name

__all__ = ["ModelAlias", "ModelAliases", "model_of"]


@dataclass(frozen=True, kw_only=True)
class ModelAlias:
    """One alias.

    Attributes:
        base: the model behind it. system: what its conversations begin with if they have no system message.
        messages: examples that come before every conversation. template: Jinja source instead of the model's own.
        sampling: fields of `SamplingParams` for what a request leaves out. context_length: at most that of the base.
        options: as the client gave them. created: UTC, ISO 8601.
    """

    name: str
    base: str
    system: str | None = None
    messages: tuple[Message, ...] = ()
    template: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    context_length: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    license: tuple[str, ...] = ()
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class ModelAliases:
    """All aliases, in one folder; None = they last as long as the process."""

    def __init__(self, folder: Path | None = None) -> None:
        """Read what is there. Raises ConfigError for a file that is not an alias."""
        self._folder = folder
        self._aliases: dict[str, ModelAlias] = {}
        for path in sorted(folder.glob("*.json")) if folder is not None and folder.is_dir() else ():
            alias = _read(path)
            self._aliases[alias.name] = alias

    def all(self) -> list[ModelAlias]:
        """By name."""
        return [self._aliases[name] for name in sorted(self._aliases)]

    def get(self, name: str) -> ModelAlias | None:
        """The alias of this name, if it is one."""
        return self._aliases.get(name)

    def save(self, alias: ModelAlias) -> None:
        """Keep it, in the place of one of the same name.

        Raises:
            InvalidParameterError: its name cannot be one.
            PackedFileError: the disk refuses.
        """
        check_name(alias.name)
        if self._folder is not None:
            data = json.dumps(asdict(alias), indent=1, ensure_ascii=False).encode()
            with AtomicFile(self._path(self._folder, alias.name), len(data)) as file:
                file.write(data)
        self._aliases[alias.name] = alias

    def remove(self, name: str) -> bool:
        """Forget it; whether there was one."""
        if self._folder is not None and name in self._aliases:
            self._path(self._folder, name).unlink(missing_ok=True)
        return self._aliases.pop(name, None) is not None

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{quote(name, safe='')}.json"


def model_of(alias: ModelAlias, base: ServedModel) -> ServedModel:
    """The model behind an alias, with the alias's defaults in the place of its own.

    Raises:
        InvalidParameterError: a default is out of range, or the template cannot be used; names it.
    """
    preface: list[Message] = []
    if alias.system:
        preface.append({"role": "system", "content": alias.system})
    model = replace(
        base,
        name=alias.name,
        default_params=replace(base.default_params, **alias.sampling),
        context_length=min(base.context_length, alias.context_length or base.context_length),
        preface=(*preface, *alias.messages),
    )
    if alias.template is None:
        return model
    if not isinstance(base.codec, PromptCodec):
        raise InvalidParameterError(f"{base.name} takes no other template; leave it out", parameter="template")
    try:
        codec = base.codec.with_template(alias.template)
    except TemplateError as error:
        raise InvalidParameterError(f"template is no Jinja template: {error}", parameter="template") from error
    return replace(model, codec=codec, replies=ReplyFormat(codec))


def _read(path: Path) -> ModelAlias:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ModelAlias(**{**values, "messages": tuple(values["messages"]), "license": tuple(values["license"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not an alias of a model: {error}; remove it") from error
