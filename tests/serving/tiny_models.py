"""Tiny random models behind real engines: GLM's two ways of writing calls, and a plain model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_crush.config import load_settings
from glm_crush.models.loader import load_model
from glm_crush.serving.local_model import serve_loaded_model
from tests.chat.glm_tokens import GLM_VOCAB_SIZE, glm_tokenizer_json
from tests.models.tiny import tiny_checkpoint


def tiny_glm(family: str, folder: Path) -> Path:
    """A tiny checkpoint with GLM's tags and without a template, so that ours for its family is used."""
    path = tiny_checkpoint(
        family, folder, vocab_size=GLM_VOCAB_SIZE, max_position_embeddings=4096, eos_token_id=[0, 1, 271]
    )
    (path / "tokenizer.json").write_text(json.dumps(glm_tokenizer_json()))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return path


@pytest.fixture(scope="session")
def glm_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """GLM-4.5's format, 4.7's, and a plain model without tags whose template takes no tools."""
    folder = tmp_path_factory.mktemp("tiny-glm")
    settings = load_settings(flags={"crush.threads": 1, "crush.kv_cache_tokens": 16384})
    paths = {
        "glm45": tiny_glm("glm4_moe", folder),
        "glm47": tiny_glm("glm4_moe_lite", folder),
        "plain": tiny_checkpoint("llama", folder, max_position_embeddings=4096),
    }
    served = []
    for name, path in paths.items():
        loaded = load_model(path, cache_dir=folder / "packed", weight_format="f32")
        served.append(serve_loaded_model(name, loaded, settings))
    yield [model for model, _ in served]
    for _, engine in served:
        engine.close()
