"""The reference executor: runs a program in plain NumPy, one readable line of maths per operation.

It is the definition that the native executor is tested against, and itself is checked against transformers.
Above: tests, and `make oracle`. Below: `reference_math`, `reference_attention`, `reference_experts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glm_crush.errors import KernelError
from glm_crush.kernels.program import (
    AdapterPart,
    AddNorm,
    Attention,
    CopyHeads,
    Embed,
    EmbedPositions,
    ForwardBatch,
    HeadLinear,
    LayerNorm,
    Linear,
    Logits,
    MixtureOfExperts,
    Norm,
    Op,
    Output,
    Pool,
    Program,
    RmsNorm,
    View,
)
from glm_crush.kernels.reference_attention import PagedCache, attend
from glm_crush.kernels.reference_cache import KV_DTYPES
from glm_crush.kernels.reference_encoder import embed_positions, mean_of_sequences, unit_rows
from glm_crush.kernels.reference_experts import mixture_of_experts
from glm_crush.kernels.reference_math import (
    Float32,
    WeightSource,
    activation,
    gated_activation,
    layer_norm,
    linear,
    rms_norm,
)

__all__ = ["ReferenceExecutor"]


class ReferenceExecutor:
    """Runs steps of a program; keeps the KV cache between them.

    Args:
        program: the model.
        weights: its weights as plain numbers.
        num_blocks: blocks of the KV cache.
        block_size: positions per block.
        kv_dtype: "f32", or "bf16" or "int8" to round keys and values when they are written.
        quantize_activations: round inputs of linear weights as the integer and bf16 kernels do: block
            floating point (see `to_block_float`) for q4, q4a, q8 and q8g; bfloat16 for bf16; not at all for f32.
    """

    def __init__(
        self,
        program: Program,
        weights: WeightSource,
        *,
        num_blocks: int,
        block_size: int = 16,
        kv_dtype: str = "f32",
        quantize_activations: bool = False,
    ) -> None:
        if kv_dtype not in KV_DTYPES:
            raise KernelError(f"kv_dtype is {kv_dtype!r}; choose {', '.join(KV_DTYPES)}")
        self.program = program
        self._weights = weights
        self._hidden = self._input = np.zeros((0, program.hidden_size), np.float32)
        self._quantize = quantize_activations
        self._adapters: dict[int, dict[int, AdapterPart]] = {}
        self._caches = tuple(
            PagedCache(layer, num_blocks=num_blocks, block_size=block_size, kv_dtype=kv_dtype)
            for layer in program.caches
        )

    def forward(self, batch: ForwardBatch) -> Float32:
        """Runs one step and returns float32 logits `[num_logit_rows, vocab_size]`, or hidden states (`Output`)."""
        buffers = [np.zeros((len(batch.token_ids), width), np.float32) for width in self.program.buffers]
        if self.program.hidden_input is not None:
            buffers[self.program.hidden_input][:] = self._input
        self._hidden = buffers[0]
        result = np.zeros((len(batch.logit_rows), self.program.output_size), np.float32)
        rows = batch.logit_rows
        for index, op in enumerate(self.program.ops):
            match op:
                case Logits():
                    result = self._logits(op, _read(buffers, op.input)[rows])
                case Output():
                    hidden = _read(buffers, op.input)[rows]
                    result = unit_rows(hidden) if op.normalize else hidden
                case Pool():
                    means = mean_of_sequences(_read(buffers, op.input), batch.query_start)
                    _read(buffers, op.out)[: len(means)] = means
                    rows = np.arange(len(means), dtype=np.int32)
                case Linear() if batch.adapter_ids is not None:
                    self._linear(op, buffers, self._adapter_product(index, op, buffers, batch))
                case _:
                    self._run(op, buffers, batch)
        return result

    def read_hidden(self, num_tokens: int) -> Float32:
        """The last step's residual stream before the final norm, float32 `[num_tokens, hidden_size]`."""
        return self._hidden[:num_tokens].copy()

    def write_hidden(self, hidden: Float32) -> None:
        """Fills the program's input of hidden states for the next step."""
        self._input = hidden

    def load_adapter(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Puts a LoRA adapter into a slot."""
        self._adapters[slot] = {part.op: part for part in parts}

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot."""
        del self._adapters[slot]

    def copy_blocks(self, sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> None:
        """Copies whole blocks of the cache, in every layer and in order."""
        for cache in self._caches:
            for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
                cache.copy_block(source, target)

    @property
    def block_bytes(self) -> int:
        """What `read_blocks` takes for one block."""
        return sum(cache.block_bytes for cache in self._caches)

    @property
    def numerics(self) -> str:
        """What decides the bits of keys and values beside program and weights."""
        return f"NumPy {np.__version__}, rounded activations: {self._quantize}"

    def read_blocks(self, blocks: npt.NDArray[np.int32], out: npt.NDArray[np.uint8]) -> None:
        """Writes whole blocks of the cache, every layer of them, to `out`: `[len(blocks), block_bytes]`."""
        for row, block in zip(out, blocks.tolist(), strict=True):
            row[:] = np.concatenate([cache.read_block(block) for cache in self._caches])

    def write_blocks(self, blocks: npt.NDArray[np.int32], data: npt.NDArray[np.uint8]) -> None:
        """Fills whole blocks of the cache with what `read_blocks` gave of others."""
        ends = np.cumsum([cache.block_bytes for cache in self._caches])
        for row, block in zip(data, blocks.tolist(), strict=True):
            for cache, part in zip(self._caches, np.split(row, ends[:-1]), strict=True):
                cache.write_block(block, part)

    def _run(self, op: Op, buffers: list[Float32], batch: ForwardBatch) -> None:
        """Runs one operation that writes a buffer."""
        match op:
            case Embed():
                table = self._weights.linear(op.table).values[0]
                _read(buffers, op.out)[:] = table[batch.token_ids] * np.float32(op.scale)
                if op.zero_first:
                    _read(buffers, op.out)[batch.positions == 0] = 0
            case EmbedPositions():
                _read(buffers, op.out)[:] += embed_positions(op, self._weights, batch)
            case LayerNorm():
                weight, bias = self._weights.vector(op.weight), self._weights.vector(op.bias)
                _read(buffers, op.out)[:] = layer_norm(_read(buffers, op.input), weight, bias, op.eps)
            case RmsNorm():
                _read(buffers, op.out)[:] = self._normed(_read(buffers, op.input), op.norm)
            case AddNorm():
                _read(buffers, op.out)[:] += self._normed(_read(buffers, op.input), op.norm)
            case Linear():
                self._linear(op, buffers)
            case HeadLinear():
                self._head_linear(op, buffers)
            case CopyHeads():
                for head in range(op.num_heads):
                    target = _columns(op.out, head * op.out_stride, op.width)
                    _read(buffers, target)[:] = _read(buffers, _columns(op.input, head * op.input_stride, op.width))
            case Attention():
                qkv = (_read(buffers, op.query), _read(buffers, op.key), _read(buffers, op.value))
                rope = None if op.rope is None else self.program.ropes[op.rope]
                mixed = attend(op, self._caches[op.cache], rope, self._weights, qkv, batch)
                _read(buffers, op.out)[:] = mixed
            case MixtureOfExperts():
                normed = self._normed(_read(buffers, op.input), op.norm)
                output = mixture_of_experts(op, normed, self._weights, quantize_activations=self._quantize)
                _read(buffers, op.out)[:] += output
            case Logits() | Output() | Pool():
                raise AssertionError("these change what the rows are; see forward")

    def _adapter_product(self, index: int, op: Linear, buffers: list[Float32], batch: ForwardBatch) -> Float32 | None:
        """What adapters add to the rows of one Linear, or None if they add nothing to any."""
        assert batch.adapter_ids is not None
        product: Float32 | None = None
        for sequence, slot in enumerate(batch.adapter_ids.tolist()):
            part = None if slot < 0 else self._adapters[slot].get(index)
            if part is None:
                continue
            rows = slice(batch.query_start[sequence], batch.query_start[sequence + 1])
            x = _read(buffers, op.input)[rows]
            if op.norm is not None:
                x = self._normed(x, op.norm)
            if product is None:
                product = np.zeros((len(batch.token_ids), len(part.b)), np.float32)
            product[rows] = (x @ part.a.T) @ part.b.T
        return product

    def _linear(self, op: Linear, buffers: list[Float32], added: Float32 | None = None) -> None:
        x = _read(buffers, op.input)
        if op.norm is not None:
            x = self._normed(x, op.norm)
        y = linear(x, self._weights.linear(op.weight), quantize_activations=self._quantize)
        if added is not None:
            y = y + added
        if op.activation in ("silu_gate", "gelu_gate"):
            y = gated_activation(y, op.out.width, op.activation)
        y = y[:, : op.out.width]
        if op.bias is not None:
            y = y + self._weights.vector(op.bias)
        if op.activation in ("gelu", "tanh"):
            y = activation(y, op.activation)
        out = _read(buffers, op.out)
        out[:] = out + y if op.accumulate else y

    def _head_linear(self, op: HeadLinear, buffers: list[Float32]) -> None:
        weight = self._weights.linear(op.weight)
        _, rows, cols = weight.values.shape
        for head in range(op.num_heads):
            x = _read(buffers, _columns(op.input, head * op.input_stride, cols))
            y = linear(x, weight, head, quantize_activations=self._quantize)
            _read(buffers, _columns(op.out, head * op.out_stride, rows))[:] = y

    def _logits(self, op: Logits, hidden: Float32) -> Float32:
        weight = self._weights.linear(op.weight)
        x = hidden if op.norm is None else self._normed(hidden, op.norm)
        logits = linear(x, weight, quantize_activations=self._quantize)[:, : op.vocab_size]
        if op.bias is not None:
            logits = logits + self._weights.vector(op.bias)
        logits = logits * np.float32(op.scale)
        if op.softcap is not None:
            logits = np.float32(op.softcap) * np.tanh(logits / np.float32(op.softcap))
        return logits

    def _normed(self, x: Float32, norm: Norm) -> Float32:
        return rms_norm(x, self._weights.vector(norm.weight), norm.eps)


def _read(buffers: list[Float32], view: View) -> Float32:
    """The columns of a view, not copied."""
    return buffers[view.buffer][:, view.offset : view.offset + view.width]


def _columns(view: View, offset: int, width: int) -> View:
    return View(view.buffer, view.offset + offset, width)
