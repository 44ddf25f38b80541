"""The tensor names of one checkpoint against those a plan asks for.

Families describe their tensors under `model.`; multimodal files put the text model deeper. Every tensor a plan
wants must be there, and every tensor that is there must be wanted or known not to matter. Above: `compiler`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.config_reader import nearest
from glm_crush.models.description import Family
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan, WeightPlan

__all__ = ["EMBEDDING", "HEAD", "CheckpointNames"]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
# Tensors of older files and of other engines: rotary angles (computed here), scales of a quantised KV cache.
_IGNORABLE_SUFFIXES = (".rotary_emb.inv_freq", ".k_scale", ".v_scale")


@dataclass(frozen=True)
class CheckpointNames:
    """How one checkpoint spells the names.

    Attributes:
        names: all its tensors.
        prefix: what stands for `model.`.
        head: name of the output head.
    """

    family: str
    names: frozenset[str]
    prefix: str
    head: str

    @classmethod
    def of(cls, family: Family, names: Collection[str]) -> CheckpointNames:
        """Finds the spelling by where the embedding is.

        Raises:
            CheckpointError: there is no embedding.
        """
        for prefix in family.prefixes:
            if prefix + family.embedding.removeprefix("model.") in names:
                heads = (HEAD, f"language_model.{HEAD}")
                return cls(family.name, frozenset(names), prefix, next((h for h in heads if h in names), HEAD))
        wanted = " or ".join(prefix + family.embedding.removeprefix("model.") for prefix in family.prefixes)
        raise CheckpointError(f"the checkpoint has no tensor {wanted}; it is incomplete or of another family")

    def rename(self, plan: tuple[WeightPlan, ...]) -> tuple[WeightPlan, ...]:
        """The plan with this checkpoint's spelling."""
        return tuple(
            replace(entry, parts=tuple(self._source(source) for source in entry.parts))
            if isinstance(entry, VectorPlan)
            else replace(entry, parts=tuple(tuple(self._source(s) for s in expert) for expert in entry.parts))
            for entry in plan
        )

    def check(self, plan: tuple[WeightPlan, ...], skipped: tuple[str, ...]) -> None:
        """Compares both ways; names that begin with one of `skipped` may go unused.

        Raises:
            CheckpointError: a tensor of the plan is missing.
            UnsupportedModelError: a tensor of the checkpoint is not used.
        """
        sources = [source for entry in plan for source in _sources(entry)]
        missing = sorted({s.name for s in sources if s.name not in self.names and s.fallback not in self.names})
        if missing:
            raise CheckpointError(f"the checkpoint lacks {len(missing)} tensors, the first is {missing[0]!r}")
        wanted = {source.name if source.name in self.names else source.fallback or "" for source in sources}
        for name in sorted(self.names - wanted):
            if not name.startswith(skipped) and not name.endswith(_IGNORABLE_SUFFIXES):
                raise UnsupportedModelError(
                    f"the checkpoint has a tensor {name!r} that family {self.family} does not use"
                    f"{nearest(name, wanted)}; leaving it out would change the model's output unnoticed"
                )

    def _source(self, source: Source) -> Source:
        name = self.head if source.name == HEAD else self._spelled(source.name)
        return replace(source, name=name, fallback=None if source.fallback is None else self._spelled(source.fallback))

    def _spelled(self, name: str) -> str:
        return self.prefix + name.removeprefix("model.") if name.startswith("model.") else name


def _sources(entry: LinearPlan | VectorPlan) -> tuple[Source, ...]:
    if isinstance(entry, VectorPlan):
        return entry.parts
    return tuple(source for expert in entry.parts for source in expert)
