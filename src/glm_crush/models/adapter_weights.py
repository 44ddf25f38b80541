"""Fits a LoRA adapter to a program: which operation each module changes, in the order of its packed rows.

Several modules may share an operation (query, key and value; gate and up): their A are stacked, and B is placed where
the module's rows are. Above: the engine. Below: `weights.adapter`, the plan of a compiled model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.kernels.program import AdapterPart, Attention, Linear, Program
from glm_crush.models.compiler import CompiledModel
from glm_crush.models.config_reader import nearest
from glm_crush.models.registry import find_family
from glm_crush.weights.adapter import Adapter, LoraModule
from glm_crush.weights.layout import interleave_gated
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan

__all__ = ["adapter_parts"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Target:
    """A Linear, what it is packed from, and how many rows each source has in it."""

    op: int
    plan: LinearPlan
    sources: tuple[Source, ...]
    rows: tuple[int, ...]


def adapter_parts(adapter: Adapter, compiled: CompiledModel, config: Mapping[str, object]) -> list[AdapterPart]:
    """What the executor is to add, for each operation that the adapter changes.

    Raises:
        UnsupportedModelError: a module is not in the model, or is one that adapters cannot change; says why.
        CheckpointError: a module's matrices do not have the shape of its weight.
    """
    targets = list(_targets(compiled))
    by_source = {source.name: target for target in targets for source in target.sources}
    prefixes = find_family(config).prefixes
    chosen: dict[int, dict[str, LoraModule]] = {}
    for module in adapter.modules.values():
        names = [f"model.{module.name.removeprefix(p)}.weight" for p in prefixes if module.name.startswith(p)]
        name = next((name for name in names if name in by_source), None)
        if name is None:
            raise UnsupportedModelError(
                f"{adapter.path} changes {module.name!r}: {_why_not(names, compiled, by_source)}"
            )
        chosen.setdefault(by_source[name].op, {})[name] = module
    return [_part(adapter, target, chosen[target.op]) for target in targets if target.op in chosen]


def _targets(compiled: CompiledModel) -> Iterator[_Target]:
    plans = {entry.name: entry for entry in compiled.program_plan if isinstance(entry, LinearPlan)}
    for index, op in enumerate(compiled.program.ops):
        if not isinstance(op, Linear):
            continue
        plan = plans[op.weight]
        [sources] = plan.parts
        if any(source.transpose for source in sources):
            continue
        if plan.gated:
            yield _Target(index, plan, sources, (op.out.width,) * len(sources))
        elif len(sources) == 1:
            yield _Target(index, plan, sources, (plan.rows,))
        else:
            attention = _attention_after(compiled.program, index)
            if attention is not None and len(sources) == 3:
                widths = (attention.query.width, attention.key.width, attention.value.width)
                yield _Target(index, plan, sources, widths)


def _attention_after(program: Program, index: int) -> Attention | None:
    """The attention that reads query, key and value where the Linear writes them."""
    op, after = program.ops[index], program.ops[index + 1]
    assert isinstance(op, Linear)
    if isinstance(after, Attention) and after.query.buffer == after.key.buffer == after.value.buffer == op.out.buffer:
        return after
    return None


def _part(adapter: Adapter, target: _Target, modules: Mapping[str, LoraModule]) -> AdapterPart:
    rank = sum(len(module.a) for module in modules.values())
    blocks = []
    for source, rows in zip(target.sources, target.rows, strict=True):
        block = np.zeros((rows, rank), np.float32)
        column = 0
        for name, module in modules.items():
            if name == source.name:
                b = _rows_of(adapter, module, target, source, rows)
                block[:, column : column + b.shape[1]] = np.float32(module.scale) * b
            column += len(module.a)
        blocks.append(block)
    half = len(blocks) // 2
    b = (
        interleave_gated(np.concatenate(blocks[:half]), np.concatenate(blocks[half:]))
        if target.plan.gated
        else np.concatenate(blocks)
    )
    a = np.concatenate([module.a for module in modules.values()])
    return AdapterPart(target.op, np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32))


def _rows_of(adapter: Adapter, module: LoraModule, target: _Target, source: Source, rows: int) -> Float32:
    last = max(s.rows[1] for s in target.sources if s.rows) if source.rows else rows
    if module.b.shape[0] != last or module.a.shape[1] != target.plan.cols:
        raise CheckpointError(
            f"{adapter.path}: {module.name} is for a weight {(module.b.shape[0], module.a.shape[1])}; "
            f"the model's is {(last, target.plan.cols)}"
        )
    return module.b if source.rows is None else module.b[source.rows[0] : source.rows[1]]


def _why_not(names: list[str], compiled: CompiledModel, known: Mapping[str, _Target]) -> str:
    for entry in compiled.program_plan:
        sources = entry.parts if isinstance(entry, VectorPlan) else [s for expert in entry.parts for s in expert]
        if not any(source.name in names for source in sources):
            continue
        if isinstance(entry, VectorPlan):
            return "it is a router, a norm or a bias, not a linear layer; `glm merge` can put it into the weights"
        if ".experts." in sources[0].name:
            return "experts of a mixture cannot be changed per request; `glm merge` puts the adapter into the weights"
        if "self_attn" in sources[0].name:
            return (
                "latent attention (MLA) multiplies this matrix into others, so it cannot be changed per request; "
                "`glm merge` puts the adapter into the weights"
            )
        return "embeddings and the output head cannot be changed; `glm merge` puts the adapter into the weights"
    shown = names[0].removesuffix(".weight") if names else ""
    return f"the model has no such layer{nearest(shown, [name.removesuffix('.weight') for name in known])}"
