"""`glm pull`, `list`, `show`, `cp`, `rm`, `inspect` on a local checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_crush.cli.roofline import measure_bandwidth
from glm_crush.errors import ModelNotFoundError
from glm_crush.weights.packed_file import PackedFile
from tests.weights.gguf_files import tiny_gguf
from tests.weights.web_server import serving

pytestmark = pytest.mark.requirement("M6")

Glm = Callable[..., Any]


def names(glm: Glm) -> list[str]:
    return [model["name"] for model in json.loads(glm("list", "--json").output)]


def test_an_empty_store_says_how_to_fill_it(glm: Glm) -> None:
    assert "glm pull smollm2:135m" in glm("list").output


def test_a_local_model_is_registered_listed_copied_and_removed(glm: Glm, tiny_llama: Path) -> None:
    glm("pull", str(tiny_llama), "--name", "tiny")
    assert names(glm) == ["tiny"]
    assert "tiny" in glm("ls").output
    glm("rm", "tiny")
    assert names(glm) == []
    assert (tiny_llama / "config.json").exists()


def test_show_tells_origin_type_and_template(glm: Glm, tiny_llama: Path) -> None:
    glm("pull", str(tiny_llama), "--name", "tiny")
    shown = json.loads(glm("show", "tiny", "--json").output)
    assert (shown["name"], shown["model_type"], shown["linked"]) == ("tiny", "llama", True)
    assert glm("show", "tiny", "--template").output.strip() == shown["chat_template"].strip()


def test_in_a_pipe_no_path_and_no_hash_is_broken_over_lines(glm: Glm, tmp_path: Path) -> None:
    with serving() as web:
        web.file("/tiny.gguf", tiny_gguf("llama", tmp_path).read_bytes())
        glm("pull", f"{web.url}/tiny.gguf", "--name", "x" * 100)
    shown = glm("show", "x" * 100).output
    assert json.loads(glm("show", "x" * 100, "--json").output)["path"] in shown
    assert re.search(r"files \(SHA-256\) +[0-9a-f]{64} tiny\.gguf *\n", shown)
    assert re.search(r"size +\S+ KiB \([\d,]+\) *\n", shown)


def test_show_tells_the_same_of_a_packed_file(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    glm("quantize", str(tiny_llama), "--format", "q4", "--output", str(tmp_path / "tiny.glm"))
    glm("pull", str(tmp_path / "tiny.glm"), "--name", "packed")
    glm("pull", str(tiny_llama), "--name", "plain")
    packed, plain = (json.loads(glm("show", name, "--json").output) for name in ("packed", "plain"))
    for key in ("model_type", "generation_config", "chat_template"):
        assert packed[key] == plain[key]


def test_removing_a_model_removes_its_packed_weights_but_not_those_of_others(
    glm: Glm, tiny_llama: Path, glm_home: Path
) -> None:
    glm("pull", str(tiny_llama), "--name", "one")
    glm("pull", str(tiny_llama), "--name", "two")
    glm("run", "one", "hi", "--max-tokens", "1", "--raw")
    packed = list((glm_home / "packed").glob("*.glm"))
    assert len(packed) == 1
    glm("rm", "one")
    assert packed[0].exists()
    glm("rm", "two")
    assert not packed[0].exists()


def test_only_what_no_copy_shares_is_said_to_be_freed(glm: Glm) -> None:
    with serving() as web:
        web.file("/tiny.gguf", b"GGUF" + bytes(2044))
        glm("pull", f"{web.url}/tiny.gguf", "--name", "one")
    glm("cp", "one", "two")
    assert "(0 B freed)" in glm("rm", "one").stderr
    assert "(2 KiB freed)" in glm("rm", "two").stderr


def test_an_unknown_name_names_the_nearest(glm: Glm, tiny_llama: Path) -> None:
    glm("pull", str(tiny_llama), "--name", "tiny")
    with pytest.raises(ModelNotFoundError, match="did you mean tiny"):
        glm("show", "tinny")


@pytest.mark.requirement("M7")
def test_inspect_tells_family_sizes_and_the_bound_on_speed(glm: Glm, tiny_llama: Path) -> None:
    report = json.loads(glm("inspect", str(tiny_llama), "--json", "--tensors").output)
    assert report["model_type"] == "llama"
    assert report["chat_template"] is True
    assert report["loader"] == "native engine, family llama"
    assert set(report["weights"]) == {"auto", "q4", "q8", "bf16", "f32"}
    assert report["weights"]["auto"]["stored_as"] == {"f32": 1.0}
    assert report["weights"]["q4"]["roofline_tokens_per_second"] > 0
    assert sum(tensor["num_values"] for tensor in report["tensors"]) == report["parameters"]
    assert "model.embed_tokens.weight" in glm("inspect", str(tiny_llama), "--tensors").output


def test_inspect_explains_a_model_that_this_engine_does_not_run(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Foreign-7B-Instruct"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["MambaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    report = json.loads(glm("inspect", str(folder), "--json").output)
    assert report["loader"] is None
    assert "MambaForCausalLM" in report["unsupported"]
    assert report["name_says"]["instruct"].startswith("follows instructions")


def test_inspect_reads_a_packed_file(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny-q4.glm"
    glm("quantize", str(tiny_llama), "--format", "q4", "--output", str(output))
    report = json.loads(glm("inspect", str(output), "--json", "--tensors").output)
    assert (report["format"], report["model_type"], report["chat_template"]) == ("packed", "llama", True)
    assert "q4" in report["stored_types"]
    packed = PackedFile.open(output)
    assert report["weights"] == {"q4": report["weights"]["q4"]}
    assert report["weights"]["q4"]["weight_bytes"] == sum(entry.nbytes for entry in packed.entries())


@pytest.mark.requirement("M7")
def test_the_bandwidth_is_that_of_all_threads_and_never_nothing() -> None:
    clock = iter([0.0, 0.0, 4.0, 4.0, 4.5, 100.0])  # begin; a pass of 4 s, one of half a second; over
    measured = measure_bandwidth(64_000_000, threads=2, clock=lambda: next(clock))
    assert measured == 128_000_000.0
