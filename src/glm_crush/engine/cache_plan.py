"""How much KV cache to have: decided from the model and the machine before anything is allocated.

Above: `build`. Below: the program's description of its caches.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from glm_crush.config import KvDtype
from glm_crush.errors import ConfigError
from glm_crush.kernels.program import Program

__all__ = ["CachePlan", "kv_bytes_per_token", "kv_dtype_beside", "plan_cache"]

# Room for several conversations where the model's own context is short.
_MIN_DEFAULT_TOKENS = 16 * 1024
_KV_BYTES = {"f32": 4, "bf16": 2}
# As the native cache lays it out: one bfloat16 scale per group of 64 dimensions, those of a block in whole lines.
_INT8_GROUP, _SCALE_BYTES, _SCALES_PADDED_TO = 64, 2, 4


@dataclass(frozen=True)
class CachePlan:
    """The KV cache to allocate.

    Attributes:
        max_context: longest prompt and reply together. num_blocks: of `block_size` tokens each.
        num_bytes: what the cache takes when it is full; pages that were never used take nothing.
    """

    max_context: int
    num_blocks: int
    block_size: int
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size


def kv_dtype_beside(weight_formats: Set[str], wanted: KvDtype) -> KvDtype:
    """The type of the cache: what is wanted, for "auto" one as fine as the weights.

    Beside weights of 4 or 8 bits int8 it is: with several streams keys and values are more bytes than the weights.

    Args:
        weight_formats: formats of the linear weights.
        wanted: "auto", "bf16", "int8" or "f32".
    """
    if wanted != "auto":
        return wanted
    if any(name.startswith("q") for name in weight_formats):
        return "int8"
    return "f32" if weight_formats == {"f32"} else "bf16"


def kv_bytes_per_token(program: Program, kv_dtype: str) -> int:
    """Bytes that one token takes in the caches of all layers."""
    if kv_dtype == "int8":
        return sum(layer.num_kv_heads * _int8_bytes(layer.key_dim, layer.value_dim) for layer in program.caches)
    numbers = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in program.caches)
    return numbers * _KV_BYTES[kv_dtype]


def _int8_bytes(key_dim: int, value_dim: int) -> int:
    """Bytes of one token's key and value with their scales."""
    groups = -(-key_dim // _INT8_GROUP) + -(-value_dim // _INT8_GROUP)
    scales = -(-groups * _SCALE_BYTES // _SCALES_PADDED_TO) * _SCALES_PADDED_TO
    return key_dim + value_dim + scales


def plan_cache(
    *,
    max_position: int,
    bytes_per_token: int,
    block_size: int = 16,
    max_context: int | None = None,
    kv_cache_tokens: int | None = None,
    budget_bytes: int,
) -> CachePlan:
    """Choose the cache's size; what the caller states is taken as it is or refused, never changed.

    Args:
        max_position: the model's own longest context.
        bytes_per_token: what one token takes in the caches of all layers.
        block_size: tokens per block.
        max_context: None = the model's own, or as much of it as `kv_cache_tokens` or the budget holds.
        kv_cache_tokens: None = `max_context`, at least 16,384, as far as the budget goes.
        budget_bytes: memory that the cache may take.

    Raises:
        ConfigError: more than the model allows, than the cache holds, or than the budget; states the numbers.
    """
    affordable = budget_bytes // (bytes_per_token * block_size) * block_size
    if max_context is not None and max_context > max_position:
        raise ConfigError(f"the context length is set to {max_context}; this model takes {max_position}. Lower it.")
    wanted = kv_cache_tokens or max_context
    if affordable < block_size or (wanted is not None and wanted > affordable):
        tokens = wanted or block_size
        raise ConfigError(
            f"a KV cache of {tokens} tokens takes {tokens * bytes_per_token / 2**20:.0f} MiB "
            f"({bytes_per_token} bytes a token); {budget_bytes / 2**20:.0f} MiB of memory are free for it, "
            f"enough for {affordable} tokens. Lower kv_cache_tokens or the context length, or free memory."
        )
    if kv_cache_tokens is None:
        context = max_position if max_context is None else max_context
        kv_cache_tokens = min(max(context, _MIN_DEFAULT_TOKENS), affordable)
    if max_context is None:
        max_context = min(max_position, kv_cache_tokens)
    if max_context > kv_cache_tokens:
        raise ConfigError(
            f"the context length is {max_context} and the KV cache holds {kv_cache_tokens} tokens; "
            "raise kv_cache_tokens or lower the context length."
        )
    num_blocks = -(-kv_cache_tokens // block_size)
    return CachePlan(max_context, num_blocks, block_size, num_blocks * block_size * bytes_per_token)
