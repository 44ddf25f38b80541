"""How much KV cache to have: decided from the model and the machine before anything is allocated.

Above: `build`. Below: the program's description of its caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glm_crush.errors import ConfigError
from glm_crush.kernels.program import Program

__all__ = ["CachePlan", "available_memory_bytes", "kv_bytes_per_token", "plan_cache"]

# Room for several conversations where the model's own context is short.
_MIN_DEFAULT_TOKENS = 16 * 1024
_KV_BYTES = {"f32": 4, "bf16": 2}


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


def kv_bytes_per_token(program: Program, kv_dtype: str) -> int:
    """Bytes that one token takes in the caches of all layers."""
    numbers = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in program.caches)
    return numbers * _KV_BYTES[kv_dtype]


def plan_cache(
    program: Program,
    *,
    kv_dtype: str = "bf16",
    block_size: int = 16,
    max_context: int | None = None,
    kv_cache_tokens: int | None = None,
    budget_bytes: int,
) -> CachePlan:
    """Choose the cache's size; what the caller states is taken as it is or refused, never changed.

    Args:
        program: the model.
        kv_dtype: "bf16" or "f32".
        block_size: tokens per block.
        max_context: None = the model's own, or as much of it as `kv_cache_tokens` or the budget holds.
        kv_cache_tokens: None = `max_context`, at least 16,384, as far as the budget goes.
        budget_bytes: memory that the cache may take.

    Raises:
        ConfigError: more than the model allows, than the cache holds, or than the budget; states the numbers.
    """
    per_token = kv_bytes_per_token(program, kv_dtype)
    affordable = budget_bytes // (per_token * block_size) * block_size
    if max_context is not None and max_context > program.max_position:
        raise ConfigError(
            f"the context length is set to {max_context}; this model takes {program.max_position}. Lower it."
        )
    wanted = kv_cache_tokens or max_context
    if affordable < block_size or (wanted is not None and wanted > affordable):
        raise ConfigError(
            f"a KV cache of {wanted or block_size} tokens takes {(wanted or block_size) * per_token / 2**20:.0f} MiB "
            f"({per_token} bytes a token); {budget_bytes / 2**20:.0f} MiB of memory are free for it, "
            f"enough for {affordable} tokens. Lower kv_cache_tokens or the context length, or free memory."
        )
    if kv_cache_tokens is None:
        context = program.max_position if max_context is None else max_context
        kv_cache_tokens = min(max(context, _MIN_DEFAULT_TOKENS), affordable)
    if max_context is None:
        max_context = min(program.max_position, kv_cache_tokens)
    if max_context > kv_cache_tokens:
        raise ConfigError(
            f"the context length is {max_context} and the KV cache holds {kv_cache_tokens} tokens; "
            "raise kv_cache_tokens or lower the context length."
        )
    num_blocks = -(-kv_cache_tokens // block_size)
    return CachePlan(max_context, num_blocks, block_size, num_blocks * block_size * per_token)


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory this process can still take: the machine's, within the limits of its control groups.

    File pages count as free, those of mapped weights too: the system drops them when memory is short.

    Raises:
        ConfigError: the system does not say (no Linux /proc).
    """
    try:
        available = _table(root / "proc/meminfo")["MemAvailable"] * 1024
    except (OSError, KeyError) as error:
        raise ConfigError(f"cannot tell how much memory is free ({error}); set kv_cache_tokens") from error
    for group in _control_groups(root):
        for limit_file, usage_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _number(group / limit_file), _number(group / usage_file)
            if limit is not None and usage is not None:
                available = min(available, limit - usage + _table(group / "memory.stat").get(cached, 0))
    return max(0, available)


def _control_groups(root: Path) -> list[Path]:
    """Folders of the memory control groups of this process, from the root down (versions 2 and 1)."""
    mount = root / "sys/fs/cgroup"
    folders = [mount, mount / "memory"]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            folder = mount / controllers
            for part in Path(path).parts[1:]:
                folder = folder / part
                folders.append(folder)
    return folders


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    pairs = (line.replace(":", "").split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    """The number in a file; None when there is no such file or it says "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
