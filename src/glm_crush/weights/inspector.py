"""Explains a model from its name and its files, without loading it.

Above: `glm inspect`, the model pages. Below: the checkpoint readers. It knows no model family: what a family makes of
a config is `models`' business.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_crush.weights.packed_file import PackedFile

if TYPE_CHECKING:
    from glm_crush.weights.checkpoint import Checkpoint

__all__ = [
    "CheckpointReport",
    "Purpose",
    "TensorReport",
    "explain_name",
    "inspect_checkpoint",
    "inspect_packed",
    "list_packed_tensors",
    "list_tensors",
]

# (what is written in a name, what it is called here, what it means); the longer spelling comes first.
_PURPOSES: tuple[tuple[str, str, str], ...] = (
    (r"instruct|inst|it", "instruct", "follows instructions; talk to it with its chat template"),
    (r"chat", "chat", "holds conversations; talk to it with its chat template"),
    (r"base|pt|pretrain(?:ed)?", "base", "continues text; it was not taught to answer"),
    (r"thinking|reasoning|think|z1|r1|reasoner", "reasoning", "thinks in writing before it answers"),
    (r"coder|code|codestral|starcoder2?", "code", "writes and explains programs"),
    (r"math", "math", "solves mathematical problems"),
    (r"vision|vl|[\d.]+v|llava|vlm", "vision", "takes images and text"),
    (r"omni", "omni", "takes and gives text, sound and images"),
    (r"embed(?:ding)?s?|bge|e5|gte|minilm", "embedding", "turns text into vectors for search"),
    (r"rerank(?:er)?", "reranker", "orders search results by relevance"),
    (r"guard|shield(?:gemma)?|moderation", "guard", "judges whether text is safe"),
    (r"reward|rm|prm", "reward", "scores answers, for training and best-of-n"),
    (r"asr|stt|whisper", "speech to text", "writes down speech"),
    (r"tts|speech|voice", "text to speech", "speaks text"),
    (r"ner", "entities", "finds names of persons, places and things"),
    (r"translate|translation|nllb|mt", "translation", "translates"),
    (r"air|flash|mini|lite|small|edge|nano", "small variant", "the lighter member of its family"),
)
_QUANTISATIONS: tuple[tuple[str, str], ...] = (
    (r"(?:i?q[2-8](?:_[0-9a-z]+)*)", "{} blocks of GGUF"),
    (r"gguf", "GGUF file: weights, tokenizer and template in one"),
    (r"w4a16|int4|4bit|awq|gptq", "4-bit weights ({})"),
    (r"w8a8|w8a16|int8|8bit", "8-bit weights ({})"),
    (r"fp8|f8", "8-bit floating point"),
    (r"mxfp4|nvfp4|fp4", "4-bit floating point ({})"),
    (r"bf16|fp16|f16", "16-bit floating point"),
    (r"mlx", "MLX format (Apple)"),
    (r"onnx", "ONNX format"),
)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?:-a(\d+(?:\.\d+)?)b)?(?![a-z0-9])", re.IGNORECASE)
_EXPERTS = re.compile(r"(?<![\w.])(\d+)x(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)
_LICENCE_KEYS = ("general.license", "general.license.name", "license")
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


@dataclass(frozen=True)
class Purpose:
    """One part of a model's name and what it says."""

    suffix: str
    meaning: str


@dataclass(frozen=True)
class TensorReport:
    """One tensor: name, shape in Hugging Face orientation, stored type, number of values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_values: int


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What the files say.

    Attributes:
        files: path and bytes of each. dtypes: values stored in each type.
        licence: as the files name it, or None. has_chat_template: whether conversations can be rendered.
    """

    path: Path
    format: str
    files: tuple[tuple[Path, int], ...]
    model_type: str
    architectures: tuple[str, ...]
    context_length: int | None
    vocab_size: int | None
    num_parameters: int
    dtypes: Mapping[str, int]
    licence: str | None
    has_chat_template: bool

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum(size for _, size in self.files)


def explain_name(name: str) -> tuple[Purpose, ...]:
    """What a model's name says: size, experts, purpose, quantisation. Unknown words are left out.

    `explain_name("Qwen3-30B-A3B-Instruct-AWQ")` names 30 billion parameters, 3 active, instruct, 4-bit.
    """
    found = []
    if experts := _EXPERTS.search(name):
        found.append(Purpose(experts[0], f"{experts[1]} experts of about {experts[2]} billion parameters"))
    elif size := _SIZE.search(name):
        unit = "billion" if size[2].lower() == "b" else "million"
        active = f", {size[3]} billion active per token (mixture of experts)" if size[3] else ""
        found.append(Purpose(size[0], f"{size[1]} {unit} parameters{active}"))
    for pattern, suffix, meaning in _PURPOSES:
        if _word(pattern, name):
            found.append(Purpose(suffix, meaning))
    for pattern, meaning in _QUANTISATIONS:
        if match := _word(pattern, name):
            found.append(Purpose(match[1], meaning.format(match[1])))
    return tuple(found)


def inspect_checkpoint(checkpoint: Checkpoint) -> CheckpointReport:
    """Read headers and side files; tensors stay where they are.

    Raises:
        CheckpointError, UnsupportedModelError: a tensor's description cannot be understood.
    """
    return _report(
        checkpoint.config,
        list_tensors(checkpoint),
        path=checkpoint.path,
        format=checkpoint.format,
        files=tuple((path, path.stat().st_size) for path in checkpoint.files),
        licence=_licence(checkpoint),
        has_chat_template=checkpoint.chat_template is not None,
    )


def inspect_packed(packed: PackedFile) -> CheckpointReport:
    """The same for a packed file; rows of gated weights are counted with their padding."""
    return _report(
        packed.header.config,
        list_packed_tensors(packed),
        path=packed.path,
        format="packed",
        files=((packed.path, packed.path.stat().st_size),),
        licence=None,
        has_chat_template=packed.header.chat_template is not None,
    )


def _report(config: Mapping[str, Any], tensors: Sequence[TensorReport], **rest: Any) -> CheckpointReport:
    dtypes: Counter[str] = Counter()
    for tensor in tensors:
        dtypes[tensor.dtype] += tensor.num_values
    text_config = _text_config(config)
    return CheckpointReport(
        model_type=str(config.get("model_type", "unknown")),
        architectures=tuple(map(str, config.get("architectures") or ())),
        context_length=_integer(text_config.get("max_position_embeddings")),
        vocab_size=_integer(text_config.get("vocab_size")),
        num_parameters=sum(dtypes.values()),
        dtypes=dict(dtypes.most_common()),
        **rest,
    )


def list_tensors(checkpoint: Checkpoint) -> tuple[TensorReport, ...]:
    """Every tensor by its Hugging Face name, in the order of the files.

    Raises:
        CheckpointError, UnsupportedModelError: as `Checkpoint.tensor`.
    """
    tensors = (checkpoint.tensor(name) for name in checkpoint.names())
    return tuple(TensorReport(t.name, tuple(t.shape), t.dtype, math.prod(t.shape)) for t in tensors)


def list_packed_tensors(packed: PackedFile) -> tuple[TensorReport, ...]:
    """Every tensor of a packed file by its name there."""
    return tuple(
        TensorReport(e.name, tuple(e.shape), "f32" if e.format == "vector" else e.format, math.prod(e.shape))
        for e in packed.entries()
        if e.format != "blob"
    )


def _word(pattern: str, name: str) -> re.Match[str] | None:
    """The pattern as a whole word of a name: `-it` is instruct, `vit` is not."""
    return re.search(rf"(?<![a-z0-9])({pattern})(?![a-z0-9])", name, re.IGNORECASE)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Multimodal checkpoints keep the language model's keys one level down."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _licence(checkpoint: Checkpoint) -> str | None:
    """From GGUF metadata, the model card's header, or the first line of a licence file."""
    for key in _LICENCE_KEYS:
        value = checkpoint.gguf_metadata.get(key)
        if isinstance(value, str) and value:
            return value
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    card = folder / "README.md"
    if card.is_file():
        header = card.read_text(encoding="utf-8", errors="replace")[:4000].split("---")
        if len(header) > 1 and (match := re.search(r"^license(?:_name)?:\s*(\S+)", header[1], re.MULTILINE)):
            return match[1]
    for file_name in _LICENCE_FILES:
        path = folder / file_name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace")[:2000].split("\n")
            return next((line.strip() for line in lines if line.strip()), None)
    return None
