"""GGUF files of every architecture give the tensors and the configuration of the Hugging Face checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.compiler import compile_model
from glm_crush.weights.checkpoint import open_checkpoint
from tests.models.tiny import tiny_config, tiny_tensors
from tests.weights import gguf_files
from tests.weights.gguf_files import ARCH_OF, tiny_gguf

pytestmark = pytest.mark.requirement("M2")

# What GGUF cannot say, set to what its readers assume.
REPRESENTABLE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"mlp_only_layers": None},
    "gemma3": {"query_pre_attn_scalar": 20},
    "glm4_moe_lite": {"num_nextn_predict_layers": 0},  # its converter drops them
}


def overrides(family: str, **more: Any) -> dict[str, Any]:
    return {**REPRESENTABLE.get(family, {}), **more}


@pytest.mark.parametrize("family", ARCH_OF)
def test_every_tensor_comes_back_under_its_hugging_face_name(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf(family, tmp_path, **overrides(family)))
    expected = tiny_tensors(tiny_config(family, **overrides(family)))
    assert set(checkpoint.names()) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(checkpoint.tensor(name).float32(), values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family", ARCH_OF)
def test_the_configuration_compiles_to_the_same_program(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf(family, tmp_path, **overrides(family)))
    ours = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
    original = compile_model(tiny_config(family, **overrides(family)), {}, checkpoint.names())
    assert ours.program == original.program
    assert ours.family == original.family
    assert ours.plan == original.plan
    assert ours.eos_token_ids == (0,)


@pytest.mark.parametrize("family", ["llama", "glm", "glm4_moe"])
@pytest.mark.parametrize("bias", [True, False])
def test_biases_are_found_and_permuted_with_their_rows(family: str, bias: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf(family, tmp_path, attention_bias=bias))
    tensors = tiny_tensors(tiny_config(family, attention_bias=bias))
    assert checkpoint.config["attention_bias"] is bias
    for name in (n for n in tensors if n.endswith("_proj.bias")):
        np.testing.assert_array_equal(checkpoint.tensor(name).float32(), tensors[name])


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q8_0"])
def test_permuted_rows_keep_their_integer_codes(dtype: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(
        tiny_gguf("llama", tmp_path, dtype=dtype, hidden_size=64, intermediate_size=96, head_dim=32)
    )
    for part in ("q", "k", "v"):
        tensor = checkpoint.tensor(f"model.layers.1.self_attn.{part}_proj.weight")
        blocks = tensor.blocks()
        assert blocks is not None
        np.testing.assert_array_equal(blocks.float32(), tensor.float32())
        part_blocks = tensor.blocks(16, 48)
        assert part_blocks is not None
        np.testing.assert_array_equal(part_blocks.codes, blocks.codes[16:48])
        np.testing.assert_array_equal(tensor.rows(16, 48), tensor.float32()[16:48])


def test_kv_b_proj_is_put_together_head_by_head(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf("glm4_moe_lite", tmp_path, **overrides("glm4_moe_lite")))
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    expected = tiny_tensors(tiny_config("glm4_moe_lite"))[name]
    np.testing.assert_array_equal(checkpoint.tensor(name).rows(30, 70), expected[30:70])


def test_a_fused_attn_qkv_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert

    def fused(family: str, config: Any, tensors: Any) -> dict[str, np.ndarray]:
        out = convert(family, config, tensors)
        for layer in range(3):
            for suffix in ("weight", "bias"):
                parts = [out.pop(f"blk.{layer}.attn_{letter}.{suffix}") for letter in "qkv"]
                out[f"blk.{layer}.attn_qkv.{suffix}"] = np.concatenate(parts)
        return out

    monkeypatch.setattr(gguf_files, "convert", fused)
    checkpoint = open_checkpoint(tiny_gguf("glm", tmp_path))
    assert checkpoint.config["attention_bias"] is True
    for name, values in tiny_tensors(tiny_config("glm")).items():
        np.testing.assert_array_equal(checkpoint.tensor(name).float32(), values, err_msg=name)


def test_experts_of_old_files_lie_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert

    def single(family: str, config: Any, tensors: Any) -> dict[str, np.ndarray]:
        out = convert(family, config, tensors)
        for name in [n for n in out if "_exps." in n]:
            for index, expert in enumerate(out.pop(name)):
                out[name.replace("_exps.", f".{index}.")] = np.ascontiguousarray(expert)
        return out

    monkeypatch.setattr(gguf_files, "convert", single)
    checkpoint = open_checkpoint(tiny_gguf("mixtral", tmp_path))
    name = "model.layers.2.block_sparse_moe.experts.4.w2.weight"
    np.testing.assert_array_equal(checkpoint.tensor(name).float32(), tiny_tensors(tiny_config("mixtral"))[name])


def test_every_token_that_ends_a_turn_is_collected(tmp_path: Path) -> None:
    tokens = ["a", "<|endoftext|>", "<|user|>", "b", "<|observation|>", "<|im_end|>"]
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 2}
    checkpoint = open_checkpoint(tiny_gguf("glm4_moe", tmp_path, extra=keys))
    assert checkpoint.generation_config["eos_token_id"] == [1, 2, 4]
    checkpoint = open_checkpoint(tiny_gguf("qwen2", tmp_path, extra={**keys, "tokenizer.ggml.eos_token_id": 0}))
    assert checkpoint.generation_config["eos_token_id"] == [0, 1, 2, 5]


def test_llama_3_scaling_is_recovered_from_its_divisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert
    theta, half = 500000.0, 10
    wavelength = 2 * np.pi * theta ** (np.arange(half) / half)
    smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
    divisors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    monkeypatch.setattr(gguf_files, "convert", lambda *a: {**convert(*a), "rope_freqs.weight": divisors})
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, rope_theta=theta))
    assert checkpoint.config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    divisors[3] *= 1.5
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight holds divisors other than"):
        open_checkpoint(tiny_gguf("llama", tmp_path, rope_theta=theta))


def test_rope_scaling_keys_become_rope_scaling(tmp_path: Path) -> None:
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    assert open_checkpoint(tiny_gguf("gemma3", tmp_path, extra=linear)).config["rope_scaling"] == {
        "rope_type": "linear",
        "factor": 8.0,
    }
    yarn = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 8.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_beta_fast": 16.0,
    }
    assert open_checkpoint(tiny_gguf("qwen3", tmp_path, extra=yarn)).config["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16.0,
    }


@pytest.mark.parametrize("gating", [1, None])
def test_early_flash_files_that_recorded_softmax_route_by_sigmoid(gating: int | None, tmp_path: Path) -> None:
    flash = {
        "vocab_size": 154_880,
        "num_hidden_layers": 47,
        "num_nextn_predict_layers": 0,
        "hidden_size": 4,
        "intermediate_size": 4,
        "moe_intermediate_size": 4,
        "n_routed_experts": 4,
        "tie_word_embeddings": True,
    }
    path = tiny_gguf("glm4_moe_lite", tmp_path, extra={"expert_gating_func": gating}, **flash)
    assert open_checkpoint(path).config["model_type"] == "glm4_moe_lite"


@pytest.mark.parametrize(
    ("family", "extra", "message"),
    [
        ("glm4_moe_lite", {"expert_gating_func": 1}, "expert_gating_func is 1"),
        ("glm4_moe_lite", {"expert_gating_func": None}, "routes by softmax"),
        ("glm4_moe", {"expert_gating_func": 1}, "expert_gating_func is 1"),
        ("glm4", {"rope.dimension_sections": [8, 12, 12, 0]}, "rope.dimension_sections"),
        ("llama", {"rope.scaling.type": "longrope"}, "'longrope'"),
        ("llama", {"attention.causal": False}, "attention.causal is False"),
        ("llama", {"logit_scale": 2.0}, "key 'llama.logit_scale' is not one that is run"),
        ("llama", {"attention.head_count_kv": [2, 2, 1]}, "head_count_kv differs between layers"),
        ("llama", {"general.architecture": "mamba"}, "general.architecture is 'mamba'; supported: llama"),
    ],
)
def test_what_we_do_not_run_is_refused_by_name(
    family: str, extra: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        open_checkpoint(tiny_gguf(family, tmp_path, extra=extra, **overrides(family)))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"embedding_length": None}, "has no key llama.embedding_length"),
        ({"embedding_length": "wide"}, "llama.embedding_length is 'wide'; a whole number"),
        ({"block_count": True}, "llama.block_count is 'True'"),
        ({"rope.freq_base": float("nan")}, "llama.rope.freq_base is 'nan'; a finite number"),
        ({"attention.head_count": 0}, "llama.attention.head_count is 0"),
        ({"tokenizer.chat_template": 3}, "tokenizer.chat_template is int, not a string"),
    ],
)
def test_a_malformed_key_is_named(extra: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tiny_gguf("llama", tmp_path, extra=extra))


def test_heads_that_do_not_share_the_rows_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, extra={"attention.head_count": 7}))
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_q\.weight' has 120 rows, which 7 heads do not share"):
        checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")


def test_a_tensor_of_another_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert
    extra = {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}
    monkeypatch.setattr(gguf_files, "convert", lambda *a: {**convert(*a), **extra})
    with pytest.raises(UnsupportedModelError, match=r"'blk\.0\.attn_sinks\.weight' is not one of LlamaForCausalLM"):
        open_checkpoint(tiny_gguf("llama", tmp_path))


def test_a_split_file_is_read_whole_from_any_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert
    for number in (0, 1):

        def part(*args: Any, number: int = number) -> dict[str, np.ndarray]:
            tensors = convert(*args)
            return {name: tensors[name] for index, name in enumerate(tensors) if index % 2 == number}

        monkeypatch.setattr(gguf_files, "convert", part)
        written = tiny_gguf("llama", tmp_path, extra={"split.no": number, "split.count": 2})
        written.rename(tmp_path / f"tiny-0000{number + 1}-of-00002.gguf")
    for number in (1, 2):
        checkpoint = open_checkpoint(tmp_path / f"tiny-0000{number}-of-00002.gguf")
        assert len(checkpoint.files) == 2
        assert set(checkpoint.names()) == set(tiny_tensors(tiny_config("llama")))
    shutil.copy(tmp_path / "tiny-00001-of-00002.gguf", tmp_path / "tiny-00002-of-00002.gguf")
    with pytest.raises(CheckpointError, match="is part 0 of 2; part 1 of 2 was expected"):
        open_checkpoint(tmp_path / "tiny-00001-of-00002.gguf")
    (tmp_path / "tiny-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"tiny-00002-of-00002\.gguf is missing"):
        open_checkpoint(tmp_path / "tiny-00001-of-00002.gguf")


def test_a_tensor_in_two_parts_or_under_two_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        written = tiny_gguf("llama", tmp_path, extra={"split.no": number - 1, "split.count": 2})
        written.rename(tmp_path / f"tiny-0000{number}-of-00002.gguf")
    with pytest.raises(CheckpointError, match=r"'token_embd\.weight' is in another part too"):
        open_checkpoint(tmp_path / "tiny-00001-of-00002.gguf")

    convert = gguf_files.convert
    extra = {"blk.0.ffn_up.3.weight": np.zeros((88, 72), np.float32)}
    monkeypatch.setattr(gguf_files, "convert", lambda *a: {**convert(*a), **extra})
    with pytest.raises(CheckpointError, match=r"experts\.3\.w3\.weight' is there twice, under different spellings"):
        open_checkpoint(tiny_gguf("mixtral", tmp_path))


@pytest.mark.parametrize("name", ["a-00001-of-2.gguf", "a-1-of-00002.gguf", "a-0000x-of-00002.gguf", "of-.gguf"])
def test_a_name_that_only_looks_like_a_part_is_one_file(name: str, tmp_path: Path) -> None:
    path = tiny_gguf("llama", tmp_path).rename(tmp_path / name)
    assert open_checkpoint(path).files == (path,)


@pytest.mark.parametrize("missing", ["attn_k_b", "attn_v_b"])
def test_half_of_kv_b_proj_is_refused(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files.convert
    monkeypatch.setattr(
        gguf_files, "convert", lambda *a: {n: v for n, v in convert(*a).items() if f"blk.1.{missing}" not in n}
    )
    with pytest.raises(CheckpointError, match=r"blk\.1\.attn_[kv]_b"):
        open_checkpoint(tiny_gguf("glm4_moe_lite", tmp_path, **overrides("glm4_moe_lite"))).tensor(
            "model.layers.1.self_attn.kv_b_proj.weight"
        )
