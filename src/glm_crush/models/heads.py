"""What a model makes of its hidden states other than the next token: a vector, labels, a masked word.

Above: `encoder`, `compiler` and the family files. Below: `encoder_parts`, `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from glm_crush.kernels.program import Attention, Logits, Norm, Output, Pool, Program, RmsNorm
from glm_crush.models.builder import ProgramBuilder
from glm_crush.models.encoder_parts import emit_biased, emit_layer_norm
from glm_crush.models.sentence import Pooling
from glm_crush.weights.plan import Source

__all__ = ["Classifier", "Embedding", "Head", "MaskedWord", "Readout", "TokenClassifier", "share_caches"]

Task = Literal["generate", "embed", "classify", "classify_tokens", "fill_mask"]


@dataclass(frozen=True)
class Readout:
    """What one step of a program gives.

    Attributes:
        task: "generate": logits of the next token; "embed": a vector per text; "classify": logits of labels per text;
            "classify_tokens": the same per token; "fill_mask": logits of the vocabulary per token.
        rows: which rows of the batch the result needs: the "first" or "last" of each text, "mean" (one result for
            each text) or "every" one.
        labels: names of the classes.
    """

    task: Task = "generate"
    rows: Literal["first", "last", "mean", "every"] = "last"
    labels: tuple[str, ...] = ()


class Head(Protocol):
    """The end of an encoder's program."""

    @property
    def readout(self) -> Readout:
        """What comes out."""

    def emit(self, builder: ProgramBuilder) -> None:
        """Appends the operations after the last layer."""


@dataclass(frozen=True)
class Embedding:
    """One vector per text.

    Attributes:
        final_norm: of a decoder that is used as an embedding model; encoders have none.
    """

    pooling: Pooling
    normalize: bool
    final_norm: Norm | None = None

    @property
    def readout(self) -> Readout:
        return Readout("embed", self.pooling)

    def emit(self, builder: ProgramBuilder) -> None:
        """Appends norm, pooling and output."""
        view = builder.residual
        if self.final_norm is not None:
            builder.add(RmsNorm(view, self.final_norm, view))
        if self.pooling == "mean":
            pooled = builder.buffer("pooled", view.width)
            builder.add(Pool(view, pooled))
            view = pooled
        builder.add(Output(view, self.normalize))


@dataclass(frozen=True)
class Classifier:
    """Labels of a whole text, from its first token: `classifier(tanh(dense(h)))`.

    Attributes:
        labels: names of the classes. dense, classifier: the checkpoint's names of the two products.
    """

    labels: tuple[str, ...]
    dense: str
    classifier: str

    @property
    def readout(self) -> Readout:
        return Readout("classify", "first", self.labels)

    def emit(self, builder: ProgramBuilder) -> None:
        """Appends dense and classifier."""
        pooled = builder.buffer("pooled", builder.hidden_size)
        emit_biased(builder, self.dense, builder.residual, pooled, activation="tanh")
        _emit_logits(builder, pooled.buffer, self.classifier, len(self.labels))


@dataclass(frozen=True)
class TokenClassifier:
    """Labels of every token."""

    labels: tuple[str, ...]

    @property
    def readout(self) -> Readout:
        return Readout("classify_tokens", "every", self.labels)

    def emit(self, builder: ProgramBuilder) -> None:
        """Appends the classifier."""
        _emit_logits(builder, builder.residual.buffer, "classifier", len(self.labels))


@dataclass(frozen=True)
class MaskedWord:
    """Logits of the vocabulary at every token: `decoder(norm(gelu(dense(h)))) + bias`, decoder tied to the embedding.

    Attributes:
        dense, norm, bias: the checkpoint's names. table: packed name of the embedding.
    """

    vocab_size: int
    eps: float
    dense: str
    norm: str
    bias: str
    table: str

    @property
    def readout(self) -> Readout:
        return Readout("fill_mask", "every")

    def emit(self, builder: ProgramBuilder) -> None:
        """Appends transform and decoder."""
        transformed = builder.buffer("pooled", builder.hidden_size)
        emit_biased(builder, self.dense, builder.residual, transformed, activation="gelu")
        emit_layer_norm(builder, self.norm, self.eps, transformed)
        bias = builder.vector(self.bias, (Source(self.bias),), (self.vocab_size,))
        builder.add(Logits(transformed, None, self.table, self.vocab_size, bias=bias))


def _emit_logits(builder: ProgramBuilder, buffer: int, name: str, size: int) -> None:
    weight = builder.linear(f"{name}.weight", (Source(f"{name}.weight"),), size, builder.hidden_size)
    bias = builder.vector(f"{name}.bias", (Source(f"{name}.bias"),), (size,))
    view = replace(builder.residual, buffer=buffer)
    builder.add(Logits(view, None, weight, size, bias=bias))


def share_caches(program: Program) -> Program:
    """The program with one cache for all layers of the same sizes.

    Where all tokens of a text are in one step, what a layer stored is of no use to the next one.
    """
    kept = tuple(dict.fromkeys(program.caches))
    ops = tuple(
        replace(op, cache=kept.index(program.caches[op.cache])) if isinstance(op, Attention) else op
        for op in program.ops
    )
    return replace(program, caches=kept, ops=ops)
