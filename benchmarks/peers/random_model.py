"""Write a random-weight model of a given shape: GGUF files (Q4_0, Q8_0) and a Hugging Face checkpoint (bf16).

    python benchmarks/peers/random_model.py dense-1.5b [--hf] [--seed 0]

Weights are normal(0, 0.02), norms 1, biases normal(0, 0.02), the expert bias 0: speed is meaningful, text is noise.
All files hold the same numbers, rounded to bf16 first. Every matrix is quantised, the embedding too, so that both
engines of a comparison read the same bytes. One tensor is in memory at a time; NumPy does the quantisation, so this
needs neither torch nor llama.cpp. The vocabulary is that of SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from gguf_files import GgufFile
from model_shapes import SHAPES, Config
from paths import MODELS, model

QUANTS = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}
SHARD_BYTES = 2 << 30

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the checkpoint, or one stack of expert matrices."""

    gguf_name: str
    hf_names: tuple[str, ...]
    """One name, or one for each expert of the stack."""
    shape: tuple[int, ...]
    kind: str
    """`weight`, `ones`, `bias` or `zeros`."""
    rotary_heads: int = 0
    """Heads whose rows GGUF's llama architecture stores with interleaved rotary pairs; 0 for none."""

    @property
    def quantised(self) -> bool:
        """Whether the GGUF file quantises it: matrices, but not the router, which stays float32."""
        return self.kind == "weight" and "ffn_gate_inp" not in self.gguf_name


def tensors(c: Config) -> Iterator[Tensor]:
    """Every tensor of the shape, in the order of the checkpoint."""
    hidden, head = c["hidden_size"], c["head_dim"]
    query, key_value = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    is_llama = c["model_type"] == "llama"
    yield Tensor("token_embd.weight", ("model.embed_tokens.weight",), (c["vocab_size"], hidden), "weight")
    for i in range(c["num_hidden_layers"]):
        g, p = f"blk.{i}.", f"model.layers.{i}."
        post_norm = "ffn_norm" if is_llama else "post_attention_norm"
        yield Tensor(g + "attn_norm.weight", (p + "input_layernorm.weight",), (hidden,), "ones")
        for letter, rows, heads in (
            ("q", query, c["num_attention_heads"]),
            ("k", key_value, c["num_key_value_heads"]),
            ("v", key_value, 0),
        ):
            name = f"{p}self_attn.{letter}_proj."
            yield Tensor(
                f"{g}attn_{letter}.weight", (name + "weight",), (rows, hidden), "weight", heads if is_llama else 0
            )
            if c["attention_bias"]:
                yield Tensor(f"{g}attn_{letter}.bias", (name + "bias",), (rows,), "bias")
        if c.get("use_qk_norm"):
            yield Tensor(g + "attn_q_norm.weight", (p + "self_attn.q_norm.weight",), (head,), "ones")
            yield Tensor(g + "attn_k_norm.weight", (p + "self_attn.k_norm.weight",), (head,), "ones")
        yield Tensor(g + "attn_output.weight", (p + "self_attn.o_proj.weight",), (hidden, query), "weight")
        yield Tensor(f"{g}{post_norm}.weight", (p + "post_attention_layernorm.weight",), (hidden,), "ones")
        if "n_routed_experts" in c and i >= c["first_k_dense_replace"]:
            yield from _mixture(c, g, p + "mlp.")
        else:
            yield from _gated(g + "ffn_{}.weight", (p + "mlp.{}_proj.weight",), hidden, c["intermediate_size"])
    yield Tensor("output_norm.weight", ("model.norm.weight",), (hidden,), "ones")
    yield Tensor("output.weight", ("lm_head.weight",), (c["vocab_size"], hidden), "weight")


def _gated(gguf_name: str, hf_names: tuple[str, ...], hidden: int, width: int) -> Iterator[Tensor]:
    """The three matrices of a gated feed-forward; a stack of them when there are several names."""
    stack = (len(hf_names),) if len(hf_names) > 1 else ()
    for part, shape in (("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))):
        names = tuple(name.format(part) for name in hf_names)
        yield Tensor(gguf_name.format(part), names, stack + shape, "weight")


def _mixture(c: Config, g: str, p: str) -> Iterator[Tensor]:
    """Router, routed experts and shared experts of one layer."""
    hidden, width, experts = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
    yield Tensor(g + "ffn_gate_inp.weight", (p + "gate.weight",), (experts, hidden), "weight")
    yield Tensor(g + "exp_probs_b.bias", (p + "gate.e_score_correction_bias",), (experts,), "zeros")
    names = tuple(f"{p}experts.{e}.{{}}_proj.weight" for e in range(experts))
    yield from _gated(g + "ffn_{}_exps.weight", names, hidden, width)
    shared = (p + "shared_experts.{}_proj.weight",)
    yield from _gated(g + "ffn_{}_shexp.weight", shared, hidden, width * c["n_shared_experts"])


def values(tensor: Tensor, rng: np.random.Generator) -> Float32:
    """The numbers of one tensor, float32 of its shape, exactly representable in bf16."""
    if tensor.kind == "ones":
        return np.ones(tensor.shape, np.float32)
    if tensor.kind == "zeros":
        return np.zeros(tensor.shape, np.float32)
    drawn = rng.standard_normal(tensor.shape, np.float32)
    drawn *= np.float32(0.02)
    return drawn.astype(ml_dtypes.bfloat16).astype(np.float32)


def interleave_rotary_rows(weight: Float32, heads: int) -> Float32:
    """Rows of q or k as GGUF's llama architecture stores them: the two halves of each head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


class HuggingFaceFolder:
    """A checkpoint folder written shard by shard (bf16; the expert bias stays float32)."""

    def __init__(self, folder: Path, config: Config, tokenizer: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.safetensors*"):
            old.unlink()
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (tokenizer / name).exists():
                shutil.copy(tokenizer / name, folder)
        self.folder = folder
        self._shard: dict[str, npt.NDArray[np.generic]] = {}
        self._shards: list[list[str]] = []
        self._total = 0

    def add(self, tensor: Tensor, value: Float32) -> None:
        """Keep the matrices of one tensor; a full shard is written."""
        parts = value if len(tensor.hf_names) > 1 else [value]
        dtype = np.float32 if tensor.kind == "zeros" else ml_dtypes.bfloat16
        for name, part in zip(tensor.hf_names, parts, strict=True):
            self._shard[name] = np.ascontiguousarray(part).astype(dtype)
        if sum(part.nbytes for part in self._shard.values()) >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        save_file(self._shard, self.folder / f"part-{len(self._shards)}.safetensors", metadata={"format": "pt"})
        self._total += sum(part.nbytes for part in self._shard.values())
        self._shards.append(list(self._shard))
        self._shard = {}

    def close(self) -> None:
        """Write the last shard and the index."""
        if self._shard:
            self._flush()
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            shard = f"model-{i + 1:05d}-of-{len(self._shards):05d}.safetensors"
            (self.folder / f"part-{i}.safetensors").rename(self.folder / shard)
            weight_map |= dict.fromkeys(names, shard)
        index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def missing_quants(shape: str) -> dict[str, Path]:
    """The GGUF files of a shape that are not there yet, by quantisation."""
    wanted = {name: MODELS / f"{shape}-{name}.gguf" for name in QUANTS}
    return {name: path for name, path in wanted.items() if not path.exists()}


def make(shape: str, *, seed: int = 0, with_hf: bool = False) -> None:
    """Write the files of one shape into the folder of models; files that are there are left alone."""
    config = SHAPES[shape]
    folder = MODELS / f"{shape}-hf"
    missing = missing_quants(shape)
    with_hf = with_hf and not (folder / "model.safetensors.index.json").exists()
    if not missing and not with_hf:
        return
    plan = list(tensors(config))
    vocabulary = model("smollm2-q4_1.gguf")
    files = [GgufFile(path, config, vocabulary, plan, QUANTS[name]) for name, path in missing.items()]
    checkpoint = HuggingFaceFolder(folder, config, MODELS / "smollm2-hf") if with_hf else None
    rng = np.random.default_rng(seed)
    for tensor in plan:
        value = values(tensor, rng)
        if checkpoint:
            checkpoint.add(tensor, value)
        if tensor.rotary_heads:
            value = interleave_rotary_rows(value, tensor.rotary_heads)
        for file in files:
            file.write(tensor, value)
    for file in files:
        file.close()
    if checkpoint:
        checkpoint.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[name for name in SHAPES if name != "smollm2-135m"])
    parser.add_argument("--hf", action="store_true", help="write the Hugging Face checkpoint too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.shape, seed=arguments.seed, with_hf=arguments.hf)


if __name__ == "__main__":
    main()
