"""Opening model folders: side files, shards, fused experts, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from glm_crush.errors import CheckpointError, ModelNotFoundError
from glm_crush.models.compiler import compile_model
from glm_crush.weights.checkpoint import open_checkpoint
from glm_crush.weights.checkpoint_files import checkpoint_files
from tests.models.tiny import tiny_checkpoint, tiny_config, tiny_tensors

pytestmark = pytest.mark.requirement("M2")


def make_sharded(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    """Two shards and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_gives_configuration_tokenizer_template_and_tensors(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path, dtype="BF16")
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "safetensors"
    assert checkpoint.config == tiny_config("llama")
    assert checkpoint.generation_config == {"eos_token_id": 0}
    assert json.loads(checkpoint.tokenizer_json)["model"]
    assert checkpoint.chat_template == checkpoint.tokenizer_config["chat_template"]
    assert set(checkpoint.names()) == set(tiny_tensors(tiny_config("llama")))
    tensor = checkpoint.tensor("lm_head.weight")
    assert (tensor.dtype, tensor.shape, tensor.block_format) == ("BF16", (269, 72), None)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    config = tiny_config("qwen3")
    tensors = tiny_tensors(config)
    checkpoint = open_checkpoint(make_sharded(tmp_path / "m", tensors, config))
    assert set(checkpoint.names()) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name).float32(), values)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "glm4_moe"])
def test_fused_experts_of_transformers_5_are_taken_apart(family: str, tmp_path: Path) -> None:
    config = tiny_config(family)
    tensors = tiny_tensors(config)
    parts = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    stored = {}
    stacks: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for name, values in tensors.items():
        prefix, found, rest = name.partition(".experts.")
        if not found:
            stored[name.replace("block_sparse_moe", "mlp")] = values
            continue
        index, part, _ = rest.split(".")
        stacks.setdefault(prefix.replace("block_sparse_moe", "mlp"), {}).setdefault(part, {})[int(index)] = values
    for prefix, stack in stacks.items():
        gate, up, down = (np.stack([stack[part][i] for i in range(len(stack[part]))]) for part in parts)
        stored[f"{prefix}.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        stored[f"{prefix}.experts.down_proj"] = down
    checkpoint = open_checkpoint(make_sharded(tmp_path / "m", stored, config))
    assert set(checkpoint.names()) == set(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name).float32(), values, err_msg=name)
    assert compile_model(config, {}, checkpoint.names()).num_next_token_layers == (family == "glm4_moe")


def test_next_token_layers_are_kept(tmp_path: Path) -> None:
    names = open_checkpoint(tiny_checkpoint("glm4_moe", tmp_path)).names()
    assert "model.layers.3.eh_proj.weight" in names
    assert "model.layers.3.shared_head.head.weight" in names


def test_a_template_file_wins_over_the_tokenizer_s(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    (path / "chat_template.jinja").write_text("{{ 1 }}")
    assert open_checkpoint(path).chat_template == "{{ 1 }}"
    (path / "chat_template.jinja").unlink()
    (path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})
    )
    assert open_checkpoint(path).chat_template == "D"
    (path / "tokenizer_config.json").unlink()
    assert open_checkpoint(path).chat_template is None
    assert open_checkpoint(path).tokenizer_config == {}


def test_the_hash_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first = open_checkpoint(tiny_checkpoint("llama", tmp_path / "a")).source_hash()
    same = open_checkpoint(tiny_checkpoint("llama", tmp_path / "b")).source_hash()
    other = open_checkpoint(tiny_checkpoint("llama", tmp_path / "c", seed=1)).source_hash()
    assert first == same != other
    (tmp_path / "b" / "llama" / "chat_template.jinja").write_text("x")
    assert open_checkpoint(tmp_path / "b" / "llama").source_hash() != first


def test_the_hash_of_a_large_file_sees_a_change_anywhere_of_some_size(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    large = np.zeros((1024, 1024), np.float32)
    hashes = set()
    for start in (None, 0, 300, 700, 1000):
        changed = large.copy()
        if start is not None:
            changed[start : start + 24] = 1
        save_file({"x": changed}, path / "model.safetensors")
        hashes.add(open_checkpoint(path).source_hash())
    assert len(hashes) == 5


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")


BREAKAGES = {
    "no config": (lambda p: (p / "config.json").unlink(), "has no config.json and no .gguf file"),
    "config is no JSON": (lambda p: (p / "config.json").write_text("{"), r"config\.json is not valid JSON"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), r"config\.json holds list, not an object"),
    "config key twice": (lambda p: (p / "config.json").write_text('{"a":1,"a":1}'), "key 'a' appears twice"),
    "config nested": (lambda p: (p / "config.json").write_text('{"a":' + "[" * 99999), "not valid JSON"),
    "config no text": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\xff"), "not valid JSON"),
    "quantisation no object": (
        lambda p: (p / "config.json").write_text('{"quantization_config": 4}'),
        "quantization_config is int, not an object",
    ),
    "shard missing": (lambda p: (p / "model-00002-of-00002.safetensors").unlink(), "names shard 'model-00002-of-00002"),
    "shard elsewhere": (
        lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
        "names shard '../x.safetensors'",
    ),
    "index without map": (lambda p: (p / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
    "tensor missing": (
        lambda p: (
            os.replace(p / "model-00001-of-00002.safetensors", p / "model-00002-of-00002.safetensors")
            or os.link(p / "model-00002-of-00002.safetensors", p / "model-00001-of-00002.safetensors")
        ),
        "is in another shard too",
    ),
    "template no text": (
        lambda p: (p / "chat_template.jinja").write_bytes(b"\xff"),
        r"chat_template\.jinja is not UTF-8",
    ),
    "template no string": (
        lambda p: (p / "tokenizer_config.json").write_text('{"chat_template": 3}'),
        "chat_template is int, not a string",
    ),
    "no weights": (lambda p: [f.unlink() for f in p.glob("*.safetensors*")], r"has no \*\.safetensors file"),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_a_broken_folder_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    config = tiny_config("qwen3")
    path = make_sharded(tmp_path / "m", tiny_tensors(config), config)
    breakage, message = BREAKAGES[case]
    breakage(path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_an_index_that_lists_more_than_there_is_is_refused(tmp_path: Path) -> None:
    config = tiny_config("qwen3")
    path = make_sharded(tmp_path / "m", tiny_tensors(config), config)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["extra"] = "model-00001-of-00002.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lists tensor 'extra' \(1 in all\), which no shard has"):
        open_checkpoint(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.bin is neither a folder nor a \.gguf file"):
        checkpoint_files(tmp_path / "model.bin")


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("llama", tmp_path))
    assert "model.norm.weight" in checkpoint
    assert "nothing" not in checkpoint
    with pytest.raises(CheckpointError, match="has no tensor 'nothing'"):
        checkpoint.tensor("nothing")


@pytest.mark.parametrize("shape", [(5000, 2, 2), (2, 3, 2)])
def test_fused_experts_of_impossible_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {"model.layers.0.mlp.experts.gate_up_proj": np.zeros(shape, np.float32)}
    with pytest.raises(CheckpointError, match=r"experts\.gate_up_proj' has shape"):
        open_checkpoint(make_sharded(tmp_path / "m", tensors, {"model_type": "qwen3_moe"}))
