"""From a path to a model that is ready to run: finds its packed file in the cache, or packs the checkpoint first.

A packed file is used only when it was made from exactly this checkpoint, by this layout, with the weights that
today's program names; any other is packed anew in its place. Above: `engine`. Below: `compiler`, `weights`,
`tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_crush.errors import ConfigError, PackedFileError
from glm_crush.models.compiler import CompiledModel, compile_model
from glm_crush.models.sentence import SentenceConfig
from glm_crush.tokenizer.tokenizer import Tokenizer
from glm_crush.weights.atomic_file import exclusive
from glm_crush.weights.checkpoint_files import checkpoint_files
from glm_crush.weights.packed_file import PackedFile
from glm_crush.weights.packed_size import LAYOUT_VERSION
from glm_crush.weights.plan import WEIGHT_FORMATS, LinearPlan
from glm_crush.weights.source_hash import source_hash

if TYPE_CHECKING:
    from glm_crush.weights.checkpoint import Checkpoint

__all__ = ["LoadedModel", "Progress", "load_model", "pack_model", "packed_path"]

PACKED_SUFFIX = ".glm"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadedModel:
    """A packed file, mapped, and the program that runs it.

    Attributes:
        packed: the weights and all that came with them. compiled: the program.
    """

    packed: PackedFile
    compiled: CompiledModel

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built when first asked for.

        Raises:
            TokenizerError: it is malformed, or the checkpoint came without one.
        """
        header = self.packed.header
        return Tokenizer.from_bytes(
            header.tokenizer_json, header.tokenizer_config, eos_token_ids=self.compiled.eos_token_ids
        )

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """tokenizer_config.json, {} when there is none."""
        return self.packed.header.tokenizer_config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """generation_config.json, {} when there is none."""
        return self.packed.header.generation_config

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the chat template, or None."""
        return self.packed.header.chat_template


def load_model(
    path: str | Path,
    *,
    cache_dir: Path,
    weight_format: str = "auto",
    progress: Progress | None = None,
    sentence: SentenceConfig | None = None,
) -> LoadedModel:
    """Loads a packed file, a Hugging Face folder or a GGUF file.

    Args:
        path: what to load. A packed file is taken as it is, and has one weight format.
        cache_dir: folder of packed files.
        weight_format: "auto" follows what is there; or "q4", "q8", "bf16", "f32".
        progress: called with bytes packed so far and in all, while a checkpoint is packed.
        sentence: makes any model one that gives a vector per text; None = as its files say.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError: the checkpoint cannot be used; names what is wrong.
        PackedFileError: `path` is a packed file that cannot be used, or the cache cannot be written.
        ConfigError: an unknown weight format, or one that the packed file `path` does not have.
    """
    path = Path(path)
    if weight_format not in WEIGHT_FORMATS:
        raise ConfigError(f"weight_format is {weight_format!r}; choose one of {', '.join(WEIGHT_FORMATS)}")
    if path.suffix == PACKED_SUFFIX:
        given = _open_packed(path, None, sentence)
        has = given.packed.header.weight_format
        if weight_format not in ("auto", has):
            raise ConfigError(
                f"weight_format is {weight_format!r} and {path} was packed as {has!r}; "
                "leave it at 'auto', or load the model that the file was made from"
            )
        return given
    source = source_hash(checkpoint_files(path))
    target = packed_path(cache_dir, source, weight_format)
    cached = _open_cached(target, source, sentence)
    if cached is not None:
        return cached
    with exclusive(target.with_suffix(".lock")):
        # Another process may have packed it while this one waited for its turn.
        cached = _open_cached(target, source, sentence)
        if cached is not None:
            return cached
        target.unlink(missing_ok=True)  # one that cannot be used: its room may be needed
        pack_model(path, target, weight_format=weight_format, progress=progress, sentence=sentence)
    return _open_packed(target, source, sentence)


def packed_path(cache_dir: Path, source: str, weight_format: str) -> Path:
    """Where the packed form of the checkpoint with hash `source` is kept."""
    return cache_dir / f"{source[:32]}-{weight_format}-v{LAYOUT_VERSION}{PACKED_SUFFIX}"


def pack_model(
    path: Path,
    target: Path,
    *,
    weight_format: str,
    progress: Progress | None = None,
    sentence: SentenceConfig | None = None,
) -> None:
    """Packs a checkpoint with all the weights of its family's program into `target`.

    Raises:
        As `load_model`.
    """
    # Imported here: a packed model starts without what only packing needs.
    from glm_crush.weights.checkpoint import open_checkpoint
    from glm_crush.weights.pack import pack_checkpoint

    checkpoint = open_checkpoint(path)
    sentence = sentence or SentenceConfig.from_files(checkpoint.sentence_files)
    compiled = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names(), sentence=sentence)
    tokenizer_json, tokenizer_config = _tokenizer_of(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    pack_checkpoint(
        checkpoint,
        compiled.plan,
        weight_format,
        target,
        progress,
        tokenizer_json=tokenizer_json,
        tokenizer_config=tokenizer_config,
    )


def _tokenizer_of(checkpoint: Checkpoint) -> tuple[bytes, Mapping[str, Any]]:
    """tokenizer.json and tokenizer_config.json, built from the metadata of a GGUF file."""
    if checkpoint.format == "safetensors":
        return checkpoint.tokenizer_json, checkpoint.tokenizer_config
    from glm_crush.tokenizer.gguf_tokenizer import tokenizer_json_from_gguf

    return tokenizer_json_from_gguf(checkpoint.gguf_metadata)


def _open_cached(path: Path, source: str, sentence: SentenceConfig | None) -> LoadedModel | None:
    """The packed file, or None when there is none that can be used.

    A truncated or stale one, or one from another version of this program, is no error: it is only a cache.
    """
    if not path.exists():
        return None
    try:
        return _open_packed(path, source, sentence)
    except PackedFileError:
        return None


def _open_packed(path: Path, source: str | None, sentence: SentenceConfig | None) -> LoadedModel:
    """Opens a packed file and checks that it holds what the program names."""
    packed = PackedFile.open(path, source_hash=source)
    sentence = sentence or SentenceConfig.from_files(packed.header.sentence_files)
    compiled = compile_model(packed.header.config, packed.header.generation_config, sentence=sentence)
    entries = {entry.name: entry for entry in packed.entries()}
    for wanted in compiled.program_plan:
        shape = (wanted.experts, wanted.rows, wanted.cols) if isinstance(wanted, LinearPlan) else wanted.shape
        entry = entries.get(wanted.name)
        if entry is None or tuple(entry.shape) != tuple(shape):
            found = "missing" if entry is None else f"of shape {tuple(entry.shape)}"
            raise PackedFileError(
                f"{path}: {wanted.name!r} is {found}, the program needs {tuple(shape)}; "
                "the file is from another version of this program: delete it to pack again"
            )
    return LoadedModel(packed, compiled)
