"""A path becomes a model: packed once, found again, refused and packed anew when anything does not fit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from glm_crush.errors import ConfigError, ModelNotFoundError, PackedFileError, TokenizerError, UnsupportedModelError
from glm_crush.kernels.reference import ReferenceExecutor
from glm_crush.models import loader
from glm_crush.models.dense_weights import DenseWeights
from glm_crush.models.loader import LoadedModel, load_model, packed_path
from tests.golden.cases import CASES, GoldenCase, golden_logits, golden_token_ids
from tests.models.reference_run import BLOCK_SIZE, BLOCKS_PER_SEQUENCE, run_whole
from tests.models.tiny import tiny_checkpoint


def logits_of(model: LoadedModel, case: GoldenCase, *, quantize_activations: bool = False) -> np.ndarray:
    weights = DenseWeights.from_packed(model.packed, model.compiled.program_plan)
    executor = ReferenceExecutor(
        model.compiled.program,
        weights,
        num_blocks=BLOCKS_PER_SEQUENCE,
        block_size=BLOCK_SIZE,
        quantize_activations=quantize_activations,
    )
    return run_whole(executor, golden_token_ids(case))


def packed_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.glm"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_packed_model_computes_what_its_checkpoint_says(case: GoldenCase, tmp_path: Path) -> None:
    path = tiny_checkpoint(case.family, tmp_path, case.seed, **case.overrides)
    model = load_model(path, cache_dir=tmp_path, weight_format="f32")
    assert model.compiled.family == case.family
    np.testing.assert_allclose(logits_of(model, case), golden_logits(case), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("weight_format", "error"), [("bf16", 0.03), ("q8", 0.15), ("q4", 0.9)])
def test_smaller_formats_stay_near(weight_format: str, error: float, tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    model = load_model(path, cache_dir=tmp_path, weight_format=weight_format)
    difference = logits_of(model, CASES[0], quantize_activations=True) - golden_logits(CASES[0])
    assert 0 < np.sqrt(np.mean(difference**2)) < error


def test_auto_follows_the_type_of_the_checkpoint(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint("llama", tmp_path, dtype="BF16"), cache_dir=tmp_path)
    assert model.packed.tensor("model.layers.0.mlp.down_proj.weight").format == "bf16"
    vector = model.packed.vector("model.norm.weight")
    assert vector.dtype == np.float32


def test_a_model_is_packed_once(tmp_path: Path) -> None:
    path, calls = tiny_checkpoint("llama", tmp_path), []
    load_model(path, cache_dir=tmp_path / "packed", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]
    calls.clear()
    load_model(path, cache_dir=tmp_path / "packed", progress=lambda done, total: calls.append((done, total)))
    assert calls == []
    assert len(packed_files(tmp_path / "packed")) == 1


def test_a_model_that_two_load_at_once_is_packed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, second_looks, calls = tiny_checkpoint("llama", tmp_path), threading.Event(), []

    def load_too() -> None:
        load_model(path, cache_dir=tmp_path / "packed", progress=lambda done, total: calls.append(done))

    second = threading.Thread(target=load_too)

    def where(*args: str) -> Path:
        if threading.current_thread() is second:
            second_looks.set()
        return packed_path(*args)

    def start_second(done: int, total: int) -> None:
        if not second_looks.is_set():
            second.start()
            assert second_looks.wait(20)

    monkeypatch.setattr(loader, "packed_path", where)
    load_model(path, cache_dir=tmp_path / "packed", progress=start_second)
    second.join(20)
    assert calls == []
    assert [file.suffix for file in (tmp_path / "packed").iterdir()] == [".glm"]


def test_the_packed_file_is_enough(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    load_model(path, cache_dir=tmp_path / "packed")
    (only,) = packed_files(tmp_path / "packed")
    for file in path.iterdir():
        file.unlink()
    model = load_model(only, cache_dir=tmp_path / "elsewhere")
    assert model.tokenizer.decode(model.tokenizer.encode("the cat")) == "the cat"
    assert model.tokenizer.eos_token_ids == (0,)
    assert model.chat_template is not None
    assert model.chat_template.startswith("{% for message")
    assert model.generation_config == {"eos_token_id": 0}
    assert model.tokenizer_config["eos_token"] == "<|endoftext|>"


def test_a_changed_checkpoint_is_packed_again(tmp_path: Path) -> None:
    cache = tmp_path / "packed"
    first = load_model(tiny_checkpoint("llama", tmp_path, seed=0), cache_dir=cache, weight_format="f32")
    second = load_model(tiny_checkpoint("llama", tmp_path, seed=1), cache_dir=cache, weight_format="f32")
    assert first.packed.path != second.packed.path
    assert not np.allclose(logits_of(first, CASES[0]), logits_of(second, CASES[0]))


def test_a_damaged_packed_file_is_made_again(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    load_model(path, cache_dir=tmp_path, weight_format="f32")
    (only,) = packed_files(tmp_path)
    only.write_bytes(only.read_bytes()[:5000])
    again = load_model(path, cache_dir=tmp_path, weight_format="f32")
    np.testing.assert_allclose(logits_of(again, CASES[0]), golden_logits(CASES[0]), atol=1e-4, rtol=0)


def test_a_packed_file_of_another_program_is_made_again(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    target = load_model(path, cache_dir=tmp_path).packed.path
    foreign = load_model(tiny_checkpoint("llama", tmp_path / "other", num_hidden_layers=1), cache_dir=tmp_path / "o")
    target.write_bytes(foreign.packed.path.read_bytes())
    assert len(load_model(path, cache_dir=tmp_path).compiled.program.caches) == 3


def test_a_packed_file_given_by_path_is_not_replaced(tmp_path: Path) -> None:
    broken = tmp_path / "broken.glm"
    broken.write_bytes(b"GGUF" * 100)
    with pytest.raises(PackedFileError, match=r"broken\.glm is not a packed model"):
        load_model(broken, cache_dir=tmp_path)
    assert broken.exists()


def test_a_packed_file_has_one_weight_format(tmp_path: Path) -> None:
    load_model(tiny_checkpoint("llama", tmp_path), cache_dir=tmp_path, weight_format="q4")
    (packed,) = packed_files(tmp_path)
    for weight_format in ("auto", "q4"):
        assert load_model(packed, cache_dir=tmp_path, weight_format=weight_format).packed.path == packed
    with pytest.raises(ConfigError, match=r"weight_format is 'q8' and .* was packed as 'q4'; leave it at 'auto'"):
        load_model(packed, cache_dir=tmp_path, weight_format="q8")


def test_multi_token_prediction_weights_are_in_the_packed_file(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint("glm4_moe", tmp_path), cache_dir=tmp_path)
    assert model.packed.tensor("model.layers.3.eh_proj.weight").cols == 144
    assert model.packed.tensor("model.layers.3.mlp.experts.down_proj.weight").experts == 8
    assert "model.layers.3.shared_head.norm.weight" in model.packed.names()


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "attention_sinks": 4}))
    with pytest.raises(UnsupportedModelError, match="attention_sinks"):
        load_model(path, cache_dir=tmp_path / "packed")
    assert list((tmp_path / "packed").iterdir()) == []


def test_a_checkpoint_without_a_tokenizer_runs_until_text_is_wanted(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    (path / "tokenizer.json").unlink()
    model = load_model(path, cache_dir=tmp_path)
    with pytest.raises(TokenizerError):
        _ = model.tokenizer


def test_unknown_formats_and_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weight_format is 'q3'; choose one of auto, q4, q8, bf16, f32"):
        load_model(tmp_path, cache_dir=tmp_path, weight_format="q3")
    with pytest.raises(ModelNotFoundError):
        load_model(tmp_path / "missing", cache_dir=tmp_path)
