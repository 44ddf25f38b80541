"""Multi-token prediction layers (DeepSeek-V3, section 2.2; NextN in GGUF): what they need packed, and their program.

The layer takes the model's hidden state at position p and the token at p + 1, and predicts the token at p + 2:

    h' = layer(eh_proj([enorm(embed(token p+1)); hnorm(norm(h_p))]))        logits = head(shared_head.norm(h'))

`norm` is the model's final norm; the embedding is zero at position 0. Above: `compiler` packs it, `loader` makes the
program for a draft. Below: `description`, `builder`.
"""

from __future__ import annotations

from collections.abc import Collection

from glm_crush.kernels.program import Embed, Linear, Logits, Norm, RmsNorm, View
from glm_crush.models.builder import ProgramBuilder
from glm_crush.models.checkpoint_names import EMBEDDING, HEAD
from glm_crush.models.description import Decoder
from glm_crush.weights.plan import Source, WeightPlan

__all__ = ["FINAL_NORM", "HIDDEN_INPUT", "lower_next_token_layer", "next_token_plan"]

FINAL_NORM = "model.norm.weight"
HIDDEN_INPUT = "main_hidden"


def next_token_plan(decoder: Decoder, offset: int, names: Collection[str]) -> tuple[WeightPlan, ...]:
    """What to pack for layer `offset` beside the model's own weights.

    Its embedding and head are kept only where the checkpoint, whose tensors are `names`, has its own copies.
    """
    shared = {EMBEDDING, HEAD, FINAL_NORM}
    return tuple(entry for entry in lower_next_token_layer(decoder, offset, names).plan if entry.name not in shared)


def lower_next_token_layer(decoder: Decoder, offset: int, names: Collection[str]) -> ProgramBuilder:
    """The operations of layer `offset`, and all that they need packed; `HIDDEN_INPUT` is the buffer to be filled."""
    hidden, vocab = decoder.hidden_size, decoder.vocab_size
    builder = ProgramBuilder(hidden)
    prefix = f"model.layers.{len(decoder.layers) + offset}"

    def own(name: str, fallback: str) -> str:
        """The layer's own copy of a matrix over the vocabulary, or the model's."""
        name = f"{prefix}.{name}.weight" if f"{prefix}.{name}.weight" in names else fallback
        return builder.linear(name, (Source(name),), vocab, hidden)

    main, joined = builder.buffer(HIDDEN_INPUT, hidden), builder.buffer("joined", 2 * hidden)
    embedding = builder.buffer("embedding", hidden)
    norms = decoder.norms
    enorm, hnorm = (norms.emit(builder, f"{prefix}.{name}.weight", hidden) for name in ("enorm", "hnorm"))
    builder.add(Embed(own("embed_tokens", EMBEDDING), embedding, decoder.embed_scale, zero_first=True))
    builder.add(RmsNorm(embedding, enorm, View(joined.buffer, 0, hidden)))
    builder.add(RmsNorm(main, norms.emit(builder, FINAL_NORM, hidden), main))
    builder.add(RmsNorm(main, hnorm, View(joined.buffer, hidden, hidden)))
    eh_proj = builder.linear(f"{prefix}.eh_proj.weight", (Source(f"{prefix}.eh_proj.weight"),), hidden, 2 * hidden)
    builder.add(Linear(joined, eh_proj, builder.residual))
    decoder.next_token_layers[offset].emit(builder, prefix, norms)
    head_norm = f"{prefix}.shared_head.norm.weight"
    source = Source(head_norm, fallback=FINAL_NORM)
    norm = Norm(builder.vector(head_norm, (source,), (hidden,), norms.weight_offset), norms.eps)
    head = own("shared_head.head", EMBEDDING if decoder.tie_word_embeddings else HEAD)
    builder.add(Logits(builder.residual, norm, head, vocab, softcap=decoder.softcap))
    return builder
