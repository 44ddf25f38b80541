"""What a configuration compiles to: operations, buffers and the weights to pack."""

from __future__ import annotations

import pytest

from glm_crush.errors import CheckpointError, UnsupportedModelError
from glm_crush.kernels.program import (
    AddNorm,
    Attention,
    CacheLayer,
    CopyHeads,
    Embed,
    HeadLinear,
    Linear,
    Logits,
    MixtureOfExperts,
    RmsNorm,
    View,
)
from glm_crush.models.compiler import CompiledModel, compile_model
from glm_crush.weights.plan import LinearPlan, Source, VectorPlan
from tests.models.tiny import FAMILIES, tiny_config
from tests.models.tiny_shapes import tensor_shapes


def compiled(family: str, **overrides: object) -> CompiledModel:
    return compile_model(tiny_config(family, num_hidden_layers=1, **overrides))


def kinds(model: CompiledModel) -> list[type]:
    return [type(op) for op in model.program.ops]


def planned(model: CompiledModel, name: str) -> LinearPlan | VectorPlan:
    return next(entry for entry in model.plan if entry.name == name)


def test_a_llama_layer_is_five_operations() -> None:
    model = compiled("llama")
    assert kinds(model) == [Embed, Linear, Attention, Linear, Linear, Linear, Logits]
    assert [op.accumulate for op in model.program.ops if isinstance(op, Linear)] == [False, True, False, True]
    assert model.program.buffers == (72, 200, 120, 88)  # residual, q k v, attention, feed-forward
    assert model.program.caches == (CacheLayer(num_kv_heads=2, key_dim=20, value_dim=20),)


def test_query_key_and_value_are_one_weight_with_one_bias() -> None:
    model = compiled("llama", attention_bias=True)
    name = "model.layers.0.self_attn"
    weight = planned(model, f"{name}.qkv_proj.weight")
    assert isinstance(weight, LinearPlan)
    assert (weight.rows, weight.cols) == (120 + 40 + 40, 72)
    assert [source.name for source in weight.parts[0]] == [f"{name}.{part}_proj.weight" for part in "qkv"]
    bias = planned(model, f"{name}.qkv_proj.bias")
    assert bias.parts == tuple(Source(f"{name}.{part}_proj.bias") for part in "qkv")


def test_gate_and_up_are_a_pair_padded_to_panels() -> None:
    weight = planned(compiled("llama"), "model.layers.0.mlp.gate_up_proj.weight")
    assert isinstance(weight, LinearPlan)
    assert weight.gated
    assert weight.rows == 2 * 96  # 88 rows are 5.5 panels of 16


def test_a_fused_checkpoint_tensor_is_cut_into_gate_and_up() -> None:
    weight = planned(compiled("glm4"), "model.layers.0.mlp.gate_up_proj.weight")
    name = "model.layers.0.mlp.gate_up_proj.weight"
    assert weight.parts == ((Source(name, (0, 88)), Source(name, (88, 176))),)


def test_tied_embeddings_share_one_weight_between_table_and_head() -> None:
    ops = compiled("qwen3").program.ops
    assert isinstance(ops[0], Embed)
    assert isinstance(ops[-1], Logits)
    assert ops[0].table == ops[-1].weight == "model.embed_tokens.weight"
    assert "lm_head.weight" not in [entry.name for entry in compiled("qwen3").plan]


def test_glm4_norms_the_output_of_each_block_before_adding_it() -> None:
    model = compiled("glm4")
    assert kinds(model) == [Embed, Linear, Attention, Linear, AddNorm, Linear, Linear, AddNorm, Logits]
    norms = [op.norm.weight for op in model.program.ops if isinstance(op, AddNorm)]
    assert norms == [f"model.layers.0.{name}.weight" for name in ("post_self_attn_layernorm", "post_mlp_layernorm")]


def test_gemma3_scales_embeddings_and_adds_one_to_norm_weights() -> None:
    model = compiled("gemma3")
    embed = model.program.ops[0]
    assert isinstance(embed, Embed)
    assert embed.scale == pytest.approx(72**0.5)
    vectors = [entry for entry in model.plan if isinstance(entry, VectorPlan)]
    assert {entry.add for entry in vectors} == {1.0}
    assert len(vectors) == 4 + 2 + 1


def test_gemma3_windows_and_rotary_bases_alternate() -> None:
    model = compile_model(tiny_config("gemma3"))
    attentions = [op for op in model.program.ops if isinstance(op, Attention)]
    assert [op.window for op in attentions] == [11, 11, None, 11]
    assert [op.rope for op in attentions] == [0, 0, 1, 0]
    assert model.program.ropes[0].inv_freq[1] > model.program.ropes[1].inv_freq[1]  # bases 40 and 500


def test_the_shared_expert_reads_the_residual_before_the_experts_change_it() -> None:
    model = compiled("glm4_moe", first_k_dense_replace=0)
    assert kinds(model) == [Embed, Linear, Attention, Linear, Linear, MixtureOfExperts, Linear, Logits]
    shared_gate_up, shared_down = model.program.ops[4], model.program.ops[6]
    assert isinstance(shared_gate_up, Linear)
    assert isinstance(shared_down, Linear)
    assert shared_gate_up.activation == "silu_gate"
    assert shared_down.accumulate


def test_experts_are_stacked_and_the_router_stays_float32() -> None:
    model = compiled("glm4_moe", first_k_dense_replace=0)
    gate_up = planned(model, "model.layers.0.mlp.experts.gate_up_proj.weight")
    down = planned(model, "model.layers.0.mlp.experts.down_proj.weight")
    assert isinstance(gate_up, LinearPlan)
    assert isinstance(down, LinearPlan)
    assert (gate_up.experts, gate_up.rows, gate_up.cols, gate_up.gated) == (8, 96, 72, True)
    assert (down.experts, down.rows, down.cols) == (8, 72, 40)
    assert down.parts[5] == (Source("model.layers.0.mlp.experts.5.down_proj.weight"),)
    router = planned(model, "model.layers.0.mlp.gate.weight")
    assert isinstance(router, VectorPlan)
    assert router.shape == (8, 72)
    assert isinstance(planned(model, "model.layers.0.mlp.gate.e_score_correction_bias"), VectorPlan)


def test_latent_attention_caches_one_latent_and_one_rotary_key_per_token() -> None:
    model = compiled("glm4_moe_lite")
    assert model.program.caches == (CacheLayer(num_kv_heads=1, key_dim=24 + 8, value_dim=24),)
    first = [Embed, Linear, RmsNorm, Linear, HeadLinear, CopyHeads, Attention, HeadLinear, Linear]
    assert kinds(model)[:9] == first
    attention = next(op for op in model.program.ops if isinstance(op, Attention))
    assert attention.key == View(attention.key.buffer, 28, 32)
    assert attention.value == View(attention.key.buffer, 28, 24)
    assert attention.rope_offset == 24


def test_latent_key_projections_are_transposed_per_head() -> None:
    weight = planned(compiled("glm4_moe_lite"), "model.layers.0.self_attn.k_b_proj.weight")
    assert isinstance(weight, LinearPlan)
    assert (weight.experts, weight.rows, weight.cols) == (6, 24, 12)
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    assert weight.parts[1] == (Source(name, (32, 44), transpose=True),)  # heads are 12 key and 20 value rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plan_uses_every_tensor_of_a_checkpoint(family: str) -> None:
    config = tiny_config(family)
    names = set(tensor_shapes(config))
    model = compile_model(config, tensor_names=names)
    sources = {s.name for e in model.plan for p in e.parts for s in (p if isinstance(p, tuple) else (p,))}
    assert sources == names


def test_multi_token_prediction_layers_are_packed_but_not_run() -> None:
    config = tiny_config("glm4_moe")
    model = compile_model(config, tensor_names=set(tensor_shapes(config)))
    assert model.num_next_token_layers == 1
    kept = [entry.name for entry in model.next_token_plan]
    assert "model.layers.3.eh_proj.weight" in kept
    assert "model.layers.3.mlp.experts.gate_up_proj.weight" in kept
    assert "model.layers.3.shared_head.head.weight" in kept
    assert not any(".layers.3." in entry.name for entry in model.program_plan)
    assert len(model.program.caches) == 3


def test_a_checkpoint_that_lost_its_multi_token_layers_still_loads() -> None:
    config = tiny_config("glm4_moe")
    names = {name for name in tensor_shapes(config) if not name.startswith("model.layers.3.")}
    assert compile_model(config, tensor_names=names).num_next_token_layers == 0


def test_a_missing_tensor_is_named() -> None:
    config = tiny_config("llama")
    names = set(tensor_shapes(config)) - {"model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, the first is 'model.layers.1.mlp.up_proj.weight'"):
        compile_model(config, tensor_names=names)


def test_a_tensor_that_nothing_uses_is_named() -> None:
    config = tiny_config("llama")
    names = {*tensor_shapes(config), "model.layers.0.self_attn.q_proj.bias"}
    with pytest.raises(UnsupportedModelError, match=r"'model.layers.0.self_attn.q_proj.bias' that family llama"):
        compile_model(config, tensor_names=names)


def test_rotary_buffers_of_old_checkpoints_are_ignored() -> None:
    config = tiny_config("llama")
    names = {*tensor_shapes(config), "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert compile_model(config, tensor_names=names).family == "llama"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_model_is_found_inside_a_multimodal_checkpoint(prefix: str) -> None:
    config = tiny_config("gemma3")
    names = {prefix + name.removeprefix("model.") for name in tensor_shapes(config)}
    model = compile_model(config, tensor_names={*names, "vision_tower.patch.weight"})
    norm = planned(model, "model.norm.weight")
    assert norm.parts == (Source(f"{prefix}norm.weight"),)


def test_a_checkpoint_without_embeddings_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no tensor model.embed_tokens.weight or embed_tokens.weight; it is inc"):
        compile_model(tiny_config("llama"), tensor_names={"model.norm.weight"})


def test_every_end_of_turn_id_counts() -> None:
    config = tiny_config("glm4_moe", eos_token_id=[151329, 151336])
    model = compile_model(config, {"eos_token_id": [151336, 151338]})
    assert model.eos_token_ids == (151329, 151336, 151338)


def test_a_text_section_of_a_multimodal_configuration_is_the_model() -> None:
    text = tiny_config("gemma3")
    del text["architectures"]
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**text, "eos_token_id": 7},
        "vision_config": {"hidden_size": 8},
        "mm_tokens_per_image": 256,
    }
    assert compile_model(outer).program == compile_model(tiny_config("gemma3")).program
    assert compile_model(outer).eos_token_ids == (7,)
