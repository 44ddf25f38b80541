"""LoRA adapters on disk: what is read, what is refused, and merging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from glm_crush.cli.main import app
from glm_crush.errors import CheckpointError, ConfigError, GlmError, ModelNotFoundError, UnsupportedModelError
from glm_crush.weights.adapter import read_adapter
from glm_crush.weights.checkpoint import open_checkpoint
from glm_crush.weights.merge import merge_adapter
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import tiny_adapter

MODULE = "model.layers.0.self_attn.q_proj"


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    if tensors is None:
        tensors = {
            f"base_model.model.{MODULE}.lora_A.weight": np.array([[1, 2, 3]], np.float32),
            f"base_model.model.{MODULE}.lora_B.weight": np.array([[1], [10]], np.float32),
        }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2, **config}))
    return folder


def test_reads_matrices_and_scale_by_module(tmp_path: Path) -> None:
    module = read_adapter(write(tmp_path, {})).modules[MODULE]
    assert module.scale == 2.0
    assert module.delta().tolist() == [[2, 4, 6], [20, 40, 60]]


def test_scale_is_alpha_by_the_root_of_the_rank_with_rslora(tmp_path: Path) -> None:
    tensors = {
        f"base_model.model.{MODULE}.lora_A.default.weight": np.ones((4, 3), np.float16),
        f"base_model.model.{MODULE}.lora_B.default.weight": np.ones((2, 4), np.float16),
    }
    assert read_adapter(write(tmp_path, {"r": 4, "use_rslora": True}, tensors)).modules[MODULE].scale == 1.0


def test_patterns_give_modules_their_own_rank_and_alpha(tmp_path: Path) -> None:
    config = {"r": 8, "rank_pattern": {"q_proj": 1}, "alpha_pattern": {r"layers\.0\..*q_proj": 5, "q_proj": 7}}
    assert read_adapter(write(tmp_path, config)).modules[MODULE].scale == 5.0


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", {}), write(tmp_path / "b", {})
    assert read_adapter(first).fingerprint == read_adapter(second).fingerprint
    assert read_adapter(first).fingerprint != read_adapter(write(tmp_path / "c", {"lora_alpha": 3})).fingerprint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is True.*DoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 2}, r"lora_A \(1, 3\).*r = 2"),
        ({"r": 0}, "r of .*q_proj is 0"),
        ({"lora_alpha": "much"}, "lora_alpha of .* is 'much'"),
        ({"rank_pattern": {"(": 1}}, "no regular expression"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises((UnsupportedModelError, CheckpointError), match=message):
        read_adapter(write(tmp_path, config))


def test_half_a_pair_and_other_tensors_are_refused(tmp_path: Path) -> None:
    lone = {f"base_model.model.{MODULE}.lora_A.weight": np.ones((1, 3), np.float32)}
    with pytest.raises(CheckpointError, match="lora_A alone"):
        read_adapter(write(tmp_path, {}, lone))
    other = {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((1, 3), np.float32)}
    with pytest.raises(UnsupportedModelError, match="lora_embedding_A"):
        read_adapter(write(tmp_path, {}, other))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no folder"):
        read_adapter(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Else an engine that loads its adapters again after a crash would never come back."""
    folder = tiny_adapter(tmp_path / "a", tiny_checkpoint("llama", tmp_path / "base"))
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to("/proc/self/mem")  # reading its first byte is an error, for root too
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be read: "):
        read_adapter(folder)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_merge_adds_the_product_and_keeps_the_rest(tmp_path: Path, dtype: str) -> None:
    path = tiny_checkpoint("llama", tmp_path, dtype=dtype)
    adapter = read_adapter(tiny_adapter(tmp_path / "adapter", path))
    merge_adapter(open_checkpoint(path), adapter, tmp_path / "merged")
    before, after = open_checkpoint(path), open_checkpoint(tmp_path / "merged")
    assert set(after.names()) == set(before.names())
    for name in before.names():
        old, new = before.tensor(name).float32(), after.tensor(name)
        assert new.dtype == dtype
        module = adapter.modules.get(name.removesuffix(".weight"))
        wanted = old if module is None else old + module.scale * (module.b @ module.a)
        np.testing.assert_allclose(new.float32(), wanted, rtol=1e-6 if dtype == "F32" else 2**-8, atol=1e-6)
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()


def test_merge_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    with pytest.raises(CheckpointError, match=r"for a weight \(2, 3\)"):
        merge_adapter(open_checkpoint(path), read_adapter(write(tmp_path / "a", {})), tmp_path / "merged")
    pair = {"A": np.ones((1, 3), np.float32), "B": np.ones((2, 1), np.float32)}
    unknown = {f"base_model.model.model.layers.9.mlp.up_proj.lora_{side}.weight": pair[side] for side in "AB"}
    with pytest.raises(UnsupportedModelError, match=r"no tensor 'model\.layers\.9\.mlp\.up_proj\.weight'; the nearest"):
        merge_adapter(open_checkpoint(path), read_adapter(write(tmp_path / "b", {}, unknown)), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(ConfigError, match="exists"):
        merge_adapter(open_checkpoint(path), read_adapter(tiny_adapter(tmp_path / "c", path)), path)


def test_glm_merge_writes_a_folder_that_loads(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    adapter = tiny_adapter(tmp_path / "adapter", path)
    result = CliRunner().invoke(app, ["merge", str(path), str(adapter), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "21 modules merged" in result.output
    assert len(load_file(tmp_path / "out" / "model.safetensors")) == len(open_checkpoint(path).names())


def test_glm_merge_says_what_is_wrong(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    result = CliRunner().invoke(app, ["merge", str(path), str(tmp_path / "none"), str(tmp_path / "out")])
    assert isinstance(result.exception, GlmError)
