"""Compiles a configuration to a program and the list of weights to pack for it.

The one place that walks a `Decoder`. Above: `loader` and the engine. Below: `registry`, `builder`. It reads
no files and knows no family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from glm_crush.kernels.program import Embed, Logits, Program
from glm_crush.models.builder import ProgramBuilder
from glm_crush.models.checkpoint_names import EMBEDDING, HEAD, CheckpointNames
from glm_crush.models.config_reader import ConfigReader
from glm_crush.models.description import Decoder, Family
from glm_crush.models.encoder import Encoder, lower_encoder
from glm_crush.models.heads import Embedding, Readout, share_caches
from glm_crush.models.next_token import FINAL_NORM, HIDDEN_INPUT, lower_next_token_layer, next_token_plan
from glm_crush.models.registry import find_family
from glm_crush.models.sentence import SentenceConfig
from glm_crush.weights.plan import Source, WeightPlan

__all__ = ["CompiledModel", "compile_model", "compile_next_token_layer"]


@dataclass(frozen=True)
class CompiledModel:
    """A model ready to be packed and run.

    Attributes:
        program: what an executor runs.
        program_plan: what to pack for `program`.
        next_token_plan: what to pack for multi-token prediction layers.
        family: name of the family.
        eos_token_ids: every id that ends a turn, from config.json and generation_config.json.
        max_position: positions are below this.
        num_next_token_layers: multi-token prediction layers that `next_token_plan` keeps.
        readout: what a step gives. sentence: how an embedding model treats its texts.
    """

    program: Program
    program_plan: tuple[WeightPlan, ...]
    next_token_plan: tuple[WeightPlan, ...]
    family: str
    eos_token_ids: tuple[int, ...]
    max_position: int
    num_next_token_layers: int
    readout: Readout = field(default_factory=Readout)
    sentence: SentenceConfig | None = None

    @property
    def plan(self) -> tuple[WeightPlan, ...]:
        """Everything to pack."""
        return self.program_plan + self.next_token_plan


def compile_model(
    config: Mapping[str, object],
    generation_config: Mapping[str, object] | None = None,
    tensor_names: Collection[str] | None = None,
    *,
    sentence: SentenceConfig | None = None,
) -> CompiledModel:
    """Compiles config.json.

    Args:
        config: config.json.
        generation_config: generation_config.json, for its end-of-turn ids.
        tensor_names: what the checkpoint holds; decides how its names begin and whether multi-token
            prediction layers are kept, and must agree with the plan. The program does not depend on it.
        sentence: makes the model, decoders too, one that gives a vector per text.

    Raises:
        UnsupportedModelError: unknown family, setting, key or leftover tensor; names it and the nearest known one.
        CheckpointError: a key or tensor is missing or malformed.
    """
    family = find_family(config)
    reader = ConfigReader(config)
    model = family.describe(reader)
    reader.finish(family.ignorable_keys)
    if isinstance(model, Encoder) or sentence is not None:
        return _compile_whole_texts(family, model, tensor_names, sentence)
    decoder = model
    builder = _lower(decoder)
    num_next = len(decoder.next_token_layers)
    if tensor_names is not None and not any(f".layers.{len(decoder.layers)}." in name for name in tensor_names):
        num_next = 0  # tools that re-save checkpoints drop these layers
    program_plan = builder.plan
    extra_plan = tuple(
        entry for offset in range(num_next) for entry in next_token_plan(decoder, offset, tensor_names or ())
    )
    if tensor_names is not None:
        names = CheckpointNames.of(family, tensor_names)
        program_plan, extra_plan = names.rename(program_plan), names.rename(extra_plan)
        skipped = (*family.ignorable_tensors, *((names.head,) if decoder.tie_word_embeddings else ()))
        names.check(program_plan + extra_plan, skipped)
    return CompiledModel(
        program=builder.program(decoder.vocab_size, decoder.max_position),
        program_plan=program_plan,
        next_token_plan=extra_plan,
        family=family.name,
        eos_token_ids=_eos_token_ids(config, generation_config or {}),
        max_position=decoder.max_position,
        num_next_token_layers=num_next,
    )


def compile_next_token_layer(
    config: Mapping[str, object], compiled: CompiledModel, packed_names: Collection[str]
) -> CompiledModel | None:
    """The first multi-token prediction layer as a model of its own; None where the packed weights lack it.

    Its program takes the hidden states of `compiled`'s, the model that it belongs to.
    """
    decoder = find_family(config).describe(ConfigReader(config))
    if isinstance(decoder, Encoder) or not decoder.next_token_layers:
        return None
    if f"model.layers.{len(decoder.layers)}.eh_proj.weight" not in packed_names:
        return None
    builder = lower_next_token_layer(decoder, 0, packed_names)
    program = builder.program(decoder.vocab_size, decoder.max_position, hidden_input=HIDDEN_INPUT)
    return replace(compiled, program=program, program_plan=builder.plan, next_token_plan=(), num_next_token_layers=0)


def _compile_whole_texts(
    family: Family, model: Decoder | Encoder, names: Collection[str] | None, sentence: SentenceConfig | None
) -> CompiledModel:
    """A program that takes whole texts and keeps nothing between steps: encoders, and decoders that embed."""
    if isinstance(model, Encoder):
        if sentence is not None:
            model = replace(model, head=Embedding(sentence.pooling, sentence.normalize))
        builder, readout = lower_encoder(model), model.head.readout
    else:
        assert sentence is not None
        builder = _lower_layers(model)
        norm = model.norms.emit(builder, FINAL_NORM, model.hidden_size)
        head = Embedding(sentence.pooling, sentence.normalize, norm)
        head.emit(builder)
        readout = head.readout
    plan = builder.plan
    if names is not None:
        spelled = CheckpointNames.of(family, names)
        plan = spelled.rename(plan)
        unused = () if isinstance(model, Encoder) else (spelled.head, *_next_token_prefixes(model, spelled.prefix))
        spelled.check(plan, (*family.ignorable_tensors, *unused))
    return CompiledModel(
        program=share_caches(builder.program(model.vocab_size, model.max_position)),
        program_plan=plan,
        next_token_plan=(),
        family=family.name,
        eos_token_ids=(),
        max_position=model.max_position,
        num_next_token_layers=0,
        readout=readout,
        sentence=sentence,
    )


def _next_token_prefixes(decoder: Decoder, prefix: str) -> tuple[str, ...]:
    first = len(decoder.layers)
    return tuple(f"{prefix}layers.{first + offset}." for offset in range(len(decoder.next_token_layers)))


def _lower(decoder: Decoder) -> ProgramBuilder:
    builder = _lower_layers(decoder)
    norm = decoder.norms.emit(builder, FINAL_NORM, decoder.hidden_size)
    head = EMBEDDING
    if not decoder.tie_word_embeddings:
        head = builder.linear(HEAD, (Source(HEAD),), decoder.vocab_size, decoder.hidden_size)
    builder.add(Logits(builder.residual, norm, head, decoder.vocab_size, softcap=decoder.softcap))
    return builder


def _lower_layers(decoder: Decoder) -> ProgramBuilder:
    builder = ProgramBuilder(decoder.hidden_size)
    table = builder.linear(EMBEDDING, (Source(EMBEDDING),), decoder.vocab_size, decoder.hidden_size)
    builder.add(Embed(table, builder.residual, decoder.embed_scale))
    for index, layer in enumerate(decoder.layers):
        layer.emit(builder, f"model.layers.{index}", decoder.norms)
    return builder


def _eos_token_ids(*configs: Mapping[str, object]) -> tuple[int, ...]:
    ids: dict[int, None] = {}
    for config in configs:
        text_config = config.get("text_config")
        for part in (config, text_config if isinstance(text_config, Mapping) else {}):
            ids |= dict.fromkeys(ConfigReader(part, "eos_token_id").integers("eos_token_id") or ())
    return tuple(ids)
