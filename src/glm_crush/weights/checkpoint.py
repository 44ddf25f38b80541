"""A model on disk: a Hugging Face folder or a GGUF file, behind one interface.

`open_checkpoint` reads headers and small files only; tensors stay in the memory map until a plan asks for them.
Above: `models.loader`, `weights.pack`. This module knows no model family; GGUF's architectures live in `gguf_*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glm_crush.errors import CheckpointError
from glm_crush.weights.checkpoint_files import checkpoint_files, weight_map
from glm_crush.weights.json_file import read_bytes, read_json
from glm_crush.weights.safetensors_names import TensorMaker, logical_tensors
from glm_crush.weights.safetensors_reader import RawTensor, read_safetensors
from glm_crush.weights.sentence_files import read_sentence_files
from glm_crush.weights.source_hash import source_hash
from glm_crush.weights.source_tensor import SourceTensor

__all__ = ["Checkpoint", "open_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
        path: the folder or GGUF file. files: everything it consists of.
        config: in the form of a Hugging Face config.json, also for GGUF.
        generation_config, tokenizer_config: {} when there is none. tokenizer_json: b"" when there is none (GGUF keeps
            its tokenizer in `gguf_metadata`). chat_template: Jinja source of the default template, or None.
        sentence_files: JSON values of sentence-transformers' files by path, {} when there are none.
    """

    path: Path
    format: Literal["safetensors", "gguf"]
    files: tuple[Path, ...]
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tokenizer_json: bytes
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None
    makers: Mapping[str, TensorMaker] = field(repr=False)
    gguf_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentence_files: Mapping[str, Any] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors, experts one by one."""
        return tuple(self.makers)

    def __contains__(self, name: str) -> bool:
        return name in self.makers

    def tensor(self, name: str) -> SourceTensor:
        """The tensor of that Hugging Face name.

        Raises:
            CheckpointError: there is none, or its parts contradict each other.
            UnsupportedModelError: it is stored in a way that is not supported.
        """
        maker = self.makers.get(name)
        if maker is None:
            raise CheckpointError(f"{self.path} has no tensor {name!r}; it has {len(self.makers)} tensors")
        return maker()

    def source_hash(self) -> str:
        """Identity of the checkpoint's content; see `source_hash.source_hash`."""
        return source_hash(self.files)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face folder or a GGUF file (of a split one, any part).

    Raises:
        ModelNotFoundError: there is no such path.
        CheckpointError: files are missing, truncated or contradict themselves.
        UnsupportedModelError: a type, architecture or quantisation that is not supported.
    """
    path = Path(path)
    files = checkpoint_files(path)
    if files[0].suffix == ".gguf":
        # Imported here: the gguf library is wanted for GGUF files only.
        from glm_crush.weights.gguf_checkpoint import open_gguf

        gguf = open_gguf(files)
        return Checkpoint(
            path=path,
            format="gguf",
            files=files,
            config=gguf.config,
            generation_config=gguf.generation_config,
            tokenizer_json=b"",
            tokenizer_config={},
            chat_template=gguf.chat_template,
            makers=gguf.makers,
            gguf_metadata=gguf.metadata,
        )
    folder = files[0].parent
    config = read_json(folder / "config.json")
    raw: dict[str, RawTensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            for name, tensor in read_safetensors(file).items():
                if name in raw:
                    raise CheckpointError(f"{file}: tensor {name!r} is in another shard too")
                raw[name] = tensor
    _check_index(folder, raw)
    tokenizer_config = read_json(folder / "tokenizer_config.json", optional=True)
    return Checkpoint(
        path=path,
        format="safetensors",
        files=files,
        config=config,
        generation_config=read_json(folder / "generation_config.json", optional=True),
        tokenizer_json=read_bytes(folder / "tokenizer.json", optional=True),
        tokenizer_config=tokenizer_config,
        chat_template=_chat_template(folder, tokenizer_config),
        makers=logical_tensors(raw, config),
        sentence_files=read_sentence_files(folder),
    )


def _check_index(folder: Path, raw: Mapping[str, RawTensor]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = [name for name in weight_map(index) if name not in raw]
        if missing:
            raise CheckpointError(f"{index} lists tensor {missing[0]!r} ({len(missing)} in all), which no shard has")


def _chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, chat_template.json or the tokenizer's own; of several the one named default."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            return read_bytes(jinja).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{jinja} is not UTF-8: {error}") from error
    template = read_json(folder / "chat_template.json", optional=True).get("chat_template")
    template = template or tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{folder}: chat_template is {type(template).__name__}, not a string")
    return template
