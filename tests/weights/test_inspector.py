"""What a model's name and files say about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_crush.models.compiler import compile_model
from glm_crush.models.footprint import packed_footprint, weight_footprint
from glm_crush.weights.checkpoint import open_checkpoint
from glm_crush.weights.inspector import explain_name, inspect_checkpoint, list_tensors
from glm_crush.weights.pack import pack_checkpoint, packed_entries
from glm_crush.weights.packed_file import PackedFile
from tests.models.tiny import tiny_checkpoint
from tests.weights.gguf_files import tiny_gguf

pytestmark = pytest.mark.requirement("M7")


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [
        ("SmolLM2-135M-Instruct-Q4_1.gguf", ["135M", "instruct", "Q4_1", "gguf"]),
        ("GLM-4.5-Air-Base", ["base", "small variant"]),
        ("GLM-4.6V", ["vision"]),
        ("Qwen3-30B-A3B-Instruct-AWQ", ["30B-A3B", "instruct", "AWQ"]),
        ("Mixtral-8x7B-v0.1", ["8x7B"]),
        ("gemma-3-1b-it", ["1b", "instruct"]),
        ("Qwen3-Reranker-0.6B", ["0.6B", "reranker"]),
        ("multilingual-e5-small", ["embedding", "small variant"]),
        ("Llama-Guard-3-8B-INT8", ["8B", "guard", "INT8"]),
        ("whisper-large-v3", ["speech to text"]),
        ("favourite", []),
        ("", []),
    ],
)
def test_a_name_says_size_purpose_and_quantisation(name: str, suffixes: list[str]) -> None:
    assert [purpose.suffix for purpose in explain_name(name)] == suffixes


def test_active_parameters_of_a_mixture_are_explained() -> None:
    assert "3 billion active" in explain_name("Qwen3-30B-A3B")[0].meaning


def test_a_report_counts_files_tensors_and_parameters(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("llama", tmp_path, dtype="BF16"))
    report = inspect_checkpoint(checkpoint)
    assert (report.format, report.model_type, report.has_chat_template) == ("safetensors", "llama", True)
    assert {path.name for path, _ in report.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert report.num_parameters == sum(tensor.num_values for tensor in list_tensors(checkpoint))
    assert report.dtypes == {"BF16": report.num_parameters}
    assert report.licence is None


def test_the_licence_comes_from_the_model_card(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    (path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n")
    assert inspect_checkpoint(open_checkpoint(path)).licence == "apache-2.0"


def test_footprints_shrink_with_the_format_and_experts_are_read_in_part(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("glm4_moe", tmp_path))
    compiled = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
    sizes = {name: weight_footprint(compiled, name) for name in ("q4", "q8", "bf16", "f32")}
    assert sizes["q4"].weight_bytes < sizes["q8"].weight_bytes < sizes["bf16"].weight_bytes < sizes["f32"].weight_bytes
    assert sizes["q4"].read_bytes_per_token < sizes["q4"].weight_bytes


@pytest.mark.parametrize("weight_format", ["auto", "q4", "q8", "bf16"])
def test_the_planned_entries_are_those_of_the_packed_file(weight_format: str, tmp_path: Path) -> None:
    wide = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
    checkpoint = open_checkpoint(tiny_gguf("llama", tmp_path, dtype="Q4_1", **wide))
    compiled = compile_model(checkpoint.config, checkpoint.generation_config, checkpoint.names())
    planned = packed_entries(checkpoint, compiled.plan, weight_format)
    pack_checkpoint(checkpoint, compiled.plan, weight_format, tmp_path / "out.glm", tokenizer_json=b"{}")
    written = PackedFile.open(tmp_path / "out.glm").entries()
    assert [(e.name, e.format, e.nbytes) for e in planned] == [(e.name, e.format, e.nbytes) for e in written]
    assert packed_footprint(compiled, planned).weight_bytes == sum(entry.nbytes for entry in written)
    matrices = {entry.format for entry in planned if entry.experts}
    assert matrices == {"auto": {"q4a"}, "q4": {"q4a"}, "q8": {"q8"}, "bf16": {"bf16"}}[weight_format]
