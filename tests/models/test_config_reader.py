"""config.json is read strictly: every key is used, known to be harmless, or refused by name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush.errors import CheckpointError, ModelError, UnsupportedModelError
from glm_crush.models.compiler import compile_model
from glm_crush.models.config_reader import ConfigReader
from tests.models.tiny import FAMILIES, tiny_config

YARN = {"rope_type": "yarn", "original_max_position_embeddings": 16}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_that_the_family_does_not_read_fails_the_load(family: str) -> None:
    with pytest.raises(UnsupportedModelError, match="attention_sinks"):
        compile_model(tiny_config(family, attention_sinks=4))


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'rms_norm_epsilon'.*did you mean 'rms_norm_eps'"):
        compile_model(tiny_config("llama", rms_norm_epsilon=1e-5))


def test_an_unknown_key_that_is_null_counts_as_absent() -> None:
    config = {**tiny_config("llama"), "attention_sinks": None}
    assert compile_model(config).family == "llama"


def test_keys_that_only_matter_in_training_are_ignored() -> None:
    config = tiny_config("glm4_moe", torch_dtype="bfloat16", initializer_range=0.02, transformers_version="4.54.0")
    assert compile_model(config).family == "glm4_moe"


def test_an_unknown_key_of_the_rotary_section_fails_the_load() -> None:
    with pytest.raises(UnsupportedModelError, match="rope_scaling: key 'low_freq_factors'"):
        compile_model(tiny_config("llama", rope_scaling={"type": "linear", "factor": 2.0, "low_freq_factors": 1.0}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "big"}, "hidden_size is 'big'; it must be a whole number"),
        ({"hidden_size": 0}, r"hidden_size is 0; it must be a whole number in \[1, 2147483647\]"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000; it must be a whole number in \[1, 1000\]"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 is not a multiple of num_key_value_heads 2"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; it must be a finite number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it must be true or false"),
        ({"rope_scaling": [1]}, "rope_scaling is .1.; it must be an object"),
        ({"rope_theta": 1.0}, "rope_theta is 1.0; it must be above 1"),
        ({"rope_scaling": {**YARN, "factor": 1e9}}, "factor is 1000000000.0; it must be at most 2147483647 over 16"),
        ({"head_dim": 2**30}, r"head_dim is 1073741824; it must be a whole number in \[1, 65536\]"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    ],
)
def test_a_malformed_value_is_named_with_its_limits(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        compile_model(tiny_config("llama", **overrides))


def test_experts_must_fill_their_groups() -> None:
    with pytest.raises(CheckpointError, match="n_group is 3; it must be a divisor of the 8 experts"):
        compile_model(tiny_config("glm4_moe", n_group=3))
    with pytest.raises(CheckpointError, match=r"num_experts_per_tok is 3; it must be a whole number in \[1, 2\]"):
        compile_model(tiny_config("glm4_moe", n_group=4, topk_group=1))


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("llama", {"hidden_act": "relu"}, "hidden_act is 'relu'; this engine runs 'silu' or 'swish' only"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"sliding_window": 8}, "'sliding_window' is unknown to this model family"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic' is not supported"),
        ("glm", {"partial_rotary_factor": 0.36}, "rotates 7 dimensions"),
        ("glm4_moe", {"scoring_func": "softmax"}, "scoring_func is 'softmax'; this engine runs 'sigmoid' only"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("glm4_moe_lite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
    ],
)
def test_a_setting_we_do_not_run_is_refused(family: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        compile_model(tiny_config(family, **overrides))


def test_what_transformers_writes_into_every_file_does_not_matter() -> None:
    written = {
        "_name_or_path": "org/name",
        "_model_name_or_path": "Tiny 8k",
        "_commit_hash": "0123abcd",
        "unk_token_id": 0,
        "cls_token_id": 1,
        "tie_encoder_decoder": True,
        "do_sample": True,
        "temperature": 0.6,
        "num_return_sequences": 1,
        "id2label": {"0": "LABEL_0"},
        "torch_dtype": "bfloat16",
    }
    assert compile_model(tiny_config("llama", **written)).program == compile_model(tiny_config("llama")).program


def test_a_section_is_read_as_strictly_as_the_whole() -> None:
    reader = ConfigReader({"outer": {"inner": 3, "other": 4}})
    section = reader.section("outer")
    assert section is not None
    assert section.integer("inner") == 3
    with pytest.raises(UnsupportedModelError, match=r"config\.json: outer: key 'other'"):
        section.finish()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.sampled_from(FAMILIES), st.data())
def test_no_value_makes_the_compiler_crash(family: str, data: st.DataObject) -> None:
    config = tiny_config(family)
    key = data.draw(st.sampled_from(sorted(config)))
    config[key] = data.draw(JSON)
    with contextlib.suppress(ModelError):
        compile_model(config)
