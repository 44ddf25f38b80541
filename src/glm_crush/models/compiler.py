"""Compiles a configuration to a program and the list of weights to pack for it.

The one place that walks a `Decoder`. Above: `loader` and the engine. Below: `registry`, `builder`. It reads
no files and knows no family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.kernels.program import Embed, Logits, Program
from glm_crush.models.builder import ProgramBuilder
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family
from glm_crush.models.registry import find_family
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan

__all__ = ["CompiledModel", "compile_model"]

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class CompiledModel:
    """A model ready to be packed and run.

    Attributes:
        program: what an executor runs.
        plan: what to pack, weights of `program` first, then those of multi-token prediction layers.
        family: name of the family.
        eos_token_ids: every id that ends a turn, from config.json and generation_config.json.
        max_position: positions are below this.
        num_next_token_layers: multi-token prediction layers that `plan` keeps.
    """

    program: Program
    plan: tuple[WeightPlan, ...]
    family: str
    eos_token_ids: tuple[int, ...]
    max_position: int
    num_next_token_layers: int


def compile_model(
    config: Mapping[str, object],
    generation_config: Mapping[str, object] | None = None,
    tensor_names: Collection[str] | None = None,
) -> CompiledModel:
    """Compiles config.json.

    Args:
        config: config.json.
        generation_config: generation_config.json, for its end-of-turn ids.
        tensor_names: what the checkpoint holds; decides how its names begin and whether it has
            multi-token prediction layers. The program does not depend on it.

    Raises:
        UnsupportedModelError: unknown family, setting, key or leftover tensor; names it and the nearest known one.
        CheckpointError: a key or tensor is missing or malformed.
    """
    family = find_family(config)
    reader = ConfigReader(config)
    decoder = family.describe(reader)
    reader.finish(family.ignorable_keys)
    builder = _lower(decoder)
    num_next = len(decoder.next_token_layers)
    if tensor_names is not None and not any(f".layers.{len(decoder.layers)}." in name for name in tensor_names):
        num_next = 0  # tools that re-save checkpoints drop these layers
    plan = list(builder.plan)
    for offset in range(num_next):
        plan += _next_token_plan(decoder, offset, tensor_names)
    if tensor_names is not None:
        plan = _with_checkpoint_names(plan, family, tensor_names)
        _check_names(plan, family, decoder, tensor_names)
    return CompiledModel(
        program=builder.program(decoder.vocab_size, decoder.max_position),
        plan=tuple(plan),
        family=family.name,
        eos_token_ids=_eos_token_ids(config, generation_config or {}),
        max_position=decoder.max_position,
        num_next_token_layers=num_next,
    )


def _lower(decoder: Decoder) -> ProgramBuilder:
    builder = ProgramBuilder(decoder.hidden_size)
    table = builder.linear(_EMBEDDING, (Source(_EMBEDDING),), decoder.vocab_size, decoder.hidden_size)
    builder.add(Embed(table, builder.residual, decoder.embed_scale))
    for index, layer in enumerate(decoder.layers):
        layer.emit(builder, f"model.layers.{index}", decoder.norms)
    norm = decoder.norms.emit(builder, "model.norm.weight", decoder.hidden_size)
    head = table
    if not decoder.tie_word_embeddings:
        head = builder.linear(_HEAD, (Source(_HEAD),), decoder.vocab_size, decoder.hidden_size)
    builder.add(Logits(builder.residual, norm, head, decoder.vocab_size, softcap=decoder.softcap))
    return builder


def _next_token_plan(decoder: Decoder, offset: int, names: Collection[str] | None) -> tuple[WeightPlan, ...]:
    """Weights of multi-token prediction layer `offset` (DeepSeek-V3, section 2.2), lowered on their own.

    The layer's embedding and head are kept only where the checkpoint has its own copies.
    """
    hidden = decoder.hidden_size
    builder = ProgramBuilder(hidden)
    prefix = f"model.layers.{len(decoder.layers) + offset}"
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        decoder.norms.emit(builder, f"{prefix}.{norm}.weight", hidden)
    joined = f"{prefix}.eh_proj.weight"
    builder.linear(joined, (Source(joined),), hidden, 2 * hidden)
    decoder.next_token_layers[offset].emit(builder, prefix, decoder.norms)
    for name in (f"{prefix}.embed_tokens.weight", f"{prefix}.shared_head.head.weight"):
        if names is not None and name in names:
            builder.linear(name, (Source(name),), decoder.vocab_size, hidden)
    return builder.plan


def _with_checkpoint_names(plan: list[WeightPlan], family: Family, names: Collection[str]) -> list[WeightPlan]:
    """The plan with sources renamed to the beginnings that this checkpoint uses."""
    found = [prefix for prefix in family.prefixes if f"{prefix}embed_tokens.weight" in names]
    if not found:
        wanted = " or ".join(f"{prefix}embed_tokens.weight" for prefix in family.prefixes)
        raise CheckpointError(f"the checkpoint has no tensor {wanted}; it is incomplete or of another family")
    prefix = found[0]
    head = next((name for name in (_HEAD, f"language_model.{_HEAD}") if name in names), _HEAD)

    def rename(source: Source) -> Source:
        name = head if source.name == _HEAD else prefix + source.name.removeprefix("model.")
        return replace(source, name=name)

    renamed: list[WeightPlan] = []
    for entry in plan:
        if isinstance(entry, LinearPlan):
            parts = tuple(tuple(rename(source) for source in expert) for expert in entry.parts)
            renamed.append(replace(entry, parts=parts))
        else:
            renamed.append(replace(entry, parts=tuple(rename(source) for source in entry.parts)))
    return renamed


def _check_names(plan: list[WeightPlan], family: Family, decoder: Decoder, names: Collection[str]) -> None:
    """Every tensor the plan wants is there, and every tensor that is there is wanted or known to be ignorable."""
    wanted = {source.name for entry in plan for source in _sources(entry)}
    missing = sorted(wanted - set(names))
    if missing:
        raise CheckpointError(f"the checkpoint lacks {len(missing)} tensors, the first is {missing[0]!r}")
    skipped = family.ignorable_tensors + ((_HEAD, f"language_model.{_HEAD}") if decoder.tie_word_embeddings else ())
    for name in names:
        if name not in wanted and not name.startswith(skipped) and not name.endswith(".rotary_emb.inv_freq"):
            raise UnsupportedModelError(
                f"the checkpoint has a tensor {name!r} that family {family.name} does not use; "
                "leaving it out would change the model's output unnoticed"
            )


def _sources(entry: WeightPlan) -> tuple[Source, ...]:
    if isinstance(entry, VectorPlan):
        return entry.parts
    return tuple(source for expert in entry.parts for source in expert)


def _eos_token_ids(*configs: Mapping[str, object]) -> tuple[int, ...]:
    ids: dict[int, None] = {}
    for config in configs:
        text_config = config.get("text_config")
        for part in (config, text_config if isinstance(text_config, Mapping) else {}):
            ids |= dict.fromkeys(ConfigReader(part, "eos_token_id").integers("eos_token_id") or ())
    return tuple(ids)
