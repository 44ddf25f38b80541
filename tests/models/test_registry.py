"""A configuration finds its family, or an error that says what there is."""

from __future__ import annotations

import pytest

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.models.registry import find_family


def test_the_architecture_decides() -> None:
    assert find_family({"architectures": ["Glm4MoeForCausalLM"], "model_type": "llama"}).name == "glm4_moe"


def test_the_model_type_decides_when_no_architecture_is_given() -> None:
    assert find_family({"model_type": "qwen3_moe"}).name == "qwen3_moe"


def test_a_multimodal_gemma3_runs_with_its_text_part() -> None:
    assert find_family({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}).name == "gemma3"


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(
        UnsupportedModelError, match="'Glm4MoForCausalLM' is not supported; did you mean 'Glm4MoeForCausalLM'"
    ):
        find_family({"architectures": ["Glm4MoForCausalLM"]})


def test_an_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba2' is not supported.*gemma3.*glm4_moe_lite.*qwen3_moe"):
        find_family({"model_type": "mamba2"})


def test_a_configuration_without_a_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither architectures nor model_type"):
        find_family({"hidden_size": 4})
