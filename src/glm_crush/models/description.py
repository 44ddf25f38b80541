"""What a family hands to the compiler: a `Decoder` read from config.json, and the `Family` entry itself.

Above: the family files fill these in, `registry` lists them, `compiler` lowers them. Below: `blocks`,
`config_reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glm_crush.errors import CheckpointError
from glm_crush.models.blocks import DecoderLayer, NormConvention
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.encoder import Encoder

__all__ = [
    "MAX_EXPERTS",
    "MAX_HEADS",
    "MAX_HEAD_DIM",
    "MAX_LAYERS",
    "Decoder",
    "Family",
    "Shape",
    "layer_windows",
    "read_shape",
]

# Beyond these a file is lying; compiling it would take for ever.
MAX_LAYERS = 1000
MAX_EXPERTS = 4096
MAX_HEADS = 4096
MAX_HEAD_DIM = 65536


@dataclass(frozen=True)
class Decoder:
    """A decoder-only language model: embeddings, layers, final norm, head.

    Attributes:
        layers: the decoder layers, `model.layers.{index}` in the checkpoint.
        norms: the convention of the layer norms and the final norm.
        embed_scale: factor of the embeddings. softcap: bound of the logits, or None.
        next_token_layers: multi-token prediction layers, kept in the packed file, not part of the program.
    """

    hidden_size: int
    vocab_size: int
    max_position: int
    layers: tuple[DecoderLayer, ...]
    norms: NormConvention
    tie_word_embeddings: bool
    embed_scale: float = 1.0
    softcap: float | None = None
    next_token_layers: tuple[DecoderLayer, ...] = ()


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: the `model_type` it is known by. model_types, architectures: what config.json may call it.
        describe: reads the whole configuration; the registry checks afterwards that no key is left.
        ignorable_keys: further keys that do not change the output, with the reason.
        prefixes: what checkpoints of the family put where we say `model.`.
        embedding: our name of the tensor by which the prefix is found.
        ignorable_tensors: beginnings of tensor names that the text model does not need.
    """

    name: str
    describe: Callable[[ConfigReader], Decoder | Encoder]
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    ignorable_keys: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("model.", "")
    ignorable_tensors: tuple[str, ...] = ()
    embedding: str = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Shape:
    """The sizes that every decoder has, under their config.json names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int


def read_shape(reader: ConfigReader, defaults: Mapping[str, int] | None = None) -> Shape:
    """Reads the common sizes; `defaults` are the family's for files that leave them out.

    Raises:
        CheckpointError: heads do not share out, or `head_dim` is missing and does not follow from the rest.
    """
    known = defaults or {}
    hidden_size = reader.integer("hidden_size", known.get("hidden_size"))
    heads = reader.integer("num_attention_heads", known.get("num_attention_heads"), maximum=MAX_HEADS)
    kv_heads = reader.integer("num_key_value_heads", known.get("num_key_value_heads", heads))
    if heads % kv_heads:
        raise CheckpointError(
            f"{reader.where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    default_head_dim = known.get("head_dim", hidden_size // heads)
    if not reader.has("head_dim") and "head_dim" not in known and hidden_size % heads:
        raise CheckpointError(
            f"{reader.where}: head_dim is missing and hidden_size {hidden_size} "
            f"is not a multiple of num_attention_heads {heads}"
        )
    return Shape(
        hidden_size=hidden_size,
        num_hidden_layers=reader.integer("num_hidden_layers", known.get("num_hidden_layers"), maximum=MAX_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=reader.integer("head_dim", default_head_dim, maximum=MAX_HEAD_DIM),
        vocab_size=reader.integer("vocab_size", known.get("vocab_size")),
        max_position_embeddings=reader.integer("max_position_embeddings", known.get("max_position_embeddings")),
    )


def layer_windows(reader: ConfigReader, window: int | None, sliding: tuple[bool, ...]) -> tuple[int | None, ...]:
    """The window of each layer, None where all is seen, from `layer_types` or else from `sliding`.

    Args:
        reader: the model's configuration.
        window: width of a window, None when no layer has one.
        sliding: which layers have one when `layer_types` is missing.

    Raises:
        CheckpointError: `layer_types` has another length or an unknown name.
    """
    names = reader.texts("layer_types")
    if names is not None:
        known = ("full_attention", "sliding_attention")
        if len(names) != len(sliding) or any(name not in known for name in names):
            raise CheckpointError(
                f"{reader.where}: layer_types has {len(names)} entries {sorted(set(names))}; "
                f"it must have {len(sliding)}, each one of {', '.join(known)}"
            )
        sliding = tuple(name == "sliding_attention" for name in names)
    return tuple(window if is_sliding else None for is_sliding in sliding)
