"""How a checkpoint turns token vectors into one vector per text: what sentence-transformers keeps beside the weights.

Above: `compiler`, `engine.embedder`. Below: `weights.sentence_files`, which reads the files. Modules that this engine
does not run fail the load; nothing is guessed where a file says something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glm_crush.errors import CheckpointError, InvalidParameterError, UnsupportedModelError

__all__ = ["Pooling", "SentenceConfig"]

Pooling = Literal["mean", "first", "last"]

_MODES: Mapping[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}


@dataclass(frozen=True)
class SentenceConfig:
    """One vector per text.

    Attributes:
        pooling: "mean" of all tokens, or the "first" ([CLS]) or "last" token's vector.
        normalize: whether vectors have length 1.
        max_length: longest text in tokens, special ones included; None = what the model allows.
        prompts: name → text that is put before an input of that kind ("query", "document").
        default_prompt: the prompt of inputs of no kind, or None. lower_case: texts are written small first.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    lower_case: bool = False

    def prepared(self, text: str, kind: str | None) -> str:
        """A text of that kind as the model was trained to read it.

        Raises:
            InvalidParameterError: the publisher names kinds, and this is none of them.
        """
        kind = kind or self.default_prompt
        if kind is not None and self.prompts and kind not in self.prompts and kind not in ("query", "document"):
            raise InvalidParameterError(
                f"the kind of text is {kind!r}; this model knows {', '.join(self.prompts)}", parameter="kind"
            )
        whole = self.prompts.get(kind or "", "") + text
        return whole.lower() if self.lower_case else whole

    @classmethod
    def from_files(cls, files: Mapping[str, Any]) -> SentenceConfig | None:
        """What the files say, or None when they speak of no vectors.

        Args:
            files: JSON values by path, as `weights.sentence_files` reads them.

        Raises:
            UnsupportedModelError: a module or a pooling mode that is not run here.
            CheckpointError: a file is malformed.
        """
        modules = files.get("modules.json")
        if modules is None:
            return None
        kinds = _kinds(modules)
        pooling_path = next((path for kind, path in kinds if kind == "Pooling"), None)
        if pooling_path is None:
            return None  # a cross-encoder: config.json's architecture says what it is
        config = files.get(f"{pooling_path}/config.json")
        if not isinstance(config, Mapping):
            raise CheckpointError(f"modules.json names {pooling_path}/config.json, which is missing")
        settings = files.get("sentence_bert_config.json", {})
        published = files.get("config_sentence_transformers.json", {})
        prompts = published.get("prompts") or {}
        default = published.get("default_prompt_name")
        if default is not None and default not in prompts:
            raise CheckpointError(
                f"config_sentence_transformers.json: default_prompt_name is {default!r}; there is {', '.join(prompts)}"
            )
        return cls(
            pooling=_pooling(config, pooling_path),
            normalize=any(kind == "Normalize" for kind, _ in kinds),
            max_length=_length(settings.get("max_seq_length")),
            prompts={str(name): str(text) for name, text in prompts.items() if text},
            default_prompt=default,
            lower_case=settings.get("do_lower_case") is True,
        )


def _kinds(modules: object) -> list[tuple[str, str]]:
    """Class name and path of each module."""
    try:
        assert isinstance(modules, list)
        kinds = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (AssertionError, KeyError, TypeError) as error:
        raise CheckpointError("modules.json is not a list of modules with type and path") from error
    for kind, _ in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UnsupportedModelError(
                f"modules.json has a {kind} module; this engine runs Transformer, Pooling and Normalize only"
            )
    return kinds


def _pooling(config: Mapping[str, Any], path: str) -> Pooling:
    chosen = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True and "_mode_" in key]
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    names = [name.removesuffix("_tokens").removesuffix("_token") for name in chosen]
    if len(names) != 1 or names[0] not in _MODES:
        raise UnsupportedModelError(
            f"{path}/config.json asks for pooling {' and '.join(chosen) or '(none)'}; "
            f"this engine runs one of {', '.join(_MODES)}"
        )
    return _MODES[names[0]]


def _length(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"sentence_bert_config.json: max_seq_length is {value!r}; it must be a whole number")
    return value
