from __future__ import annotations

import pytest

from oblong.checkpoints import classify_role, explain_ineligible, find_layer

NAMES = {
    "llama": {
        "model.embed_tokens.weight": "embedding",
        "model.layers.7.self_attn.q_proj.weight": "q",
        "model.layers.7.self_attn.k_proj.weight": "k",
        "model.layers.7.self_attn.v_proj.weight": "v",
        "model.layers.7.self_attn.o_proj.weight": "o",
        "model.layers.7.mlp.gate_proj.weight": "gate",
        "model.layers.7.mlp.up_proj.weight": "up",
        "model.layers.7.mlp.down_proj.weight": "down",
        "model.layers.7.input_layernorm.weight": "norm",
        "model.layers.7.post_attention_layernorm.weight": "norm",
        "model.layers.7.self_attn.rotary_emb.inv_freq": "buffer",
        "model.norm.weight": "norm",
        "lm_head.weight": "lm_head",
    },
    "mistral and mixtral": {
        "model.layers.0.block_sparse_moe.gate.weight": "router",
        "model.layers.0.block_sparse_moe.experts.3.w1.weight": "gate",
        "model.layers.0.block_sparse_moe.experts.3.w2.weight": "down",
        "model.layers.0.block_sparse_moe.experts.3.w3.weight": "up",
        "layers.0.attention.wq.weight": "q",
        "layers.0.attention.wo.weight": "o",
        "layers.0.feed_forward.w2.weight": "down",
        "tok_embeddings.weight": "embedding",
        "output.weight": "lm_head",
    },
    "qwen": {
        "model.layers.0.self_attn.q_proj.bias": "bias",
        "model.layers.0.self_attn.q_norm.weight": "norm",
        "model.layers.0.mlp.gate.weight": "router",
        "model.layers.0.mlp.shared_expert_gate.weight": "router",
        "model.layers.0.mlp.experts.5.gate_proj.weight": "gate",
        "transformer.h.0.attn.c_attn.weight": "qkv",
    },
    "gemma": {
        "model.layers.0.pre_feedforward_layernorm.weight": "norm",
        "model.layers.0.self_attn.k_norm.weight": "norm",
        "model.embed_tokens_per_layer.weight": "embedding",
    },
    "phi": {
        "model.layers.0.self_attn.dense.weight": "o",
        "model.layers.0.mlp.fc1.weight": "up",
        "model.layers.0.mlp.fc2.weight": "down",
        "model.layers.0.self_attn.qkv_proj.weight": "qkv",
        "model.layers.0.mlp.gate_up_proj.weight": "gate_up",
        "model.final_layernorm.weight": "norm",
    },
    "gpt-2": {
        "wte.weight": "embedding",
        "wpe.weight": "embedding",
        "h.3.attn.bias": "buffer",
        "h.3.attn.c_attn.weight": "qkv",
        "h.3.attn.c_attn.bias": "bias",
        "h.3.attn.c_proj.weight": "o",
        "h.3.mlp.c_fc.weight": "up",
        "h.3.mlp.c_proj.weight": "down",
        "h.3.ln_1.weight": "norm",
        "ln_f.weight": "norm",
    },
    "gpt-neox": {
        "gpt_neox.embed_in.weight": "embedding",
        "gpt_neox.layers.0.attention.query_key_value.weight": "qkv",
        "gpt_neox.layers.0.attention.dense.weight": "o",
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": "up",
        "gpt_neox.layers.0.mlp.dense_4h_to_h.weight": "down",
        "gpt_neox.layers.0.attention.masked_bias": "buffer",
        "gpt_neox.final_layer_norm.weight": "norm",
        "embed_out.weight": "lm_head",
    },
    "opt": {
        "model.decoder.embed_positions.weight": "embedding",
        "model.decoder.layers.0.self_attn.out_proj.weight": "o",
        "model.decoder.layers.0.fc1.weight": "up",
        "model.decoder.layers.0.self_attn_layer_norm.weight": "norm",
    },
    "bert": {
        "bert.embeddings.word_embeddings.weight": "embedding",
        "bert.embeddings.token_type_embeddings.weight": "embedding",
        "bert.embeddings.LayerNorm.weight": "norm",
        "bert.encoder.layer.4.attention.self.query.weight": "q",
        "bert.encoder.layer.4.attention.self.key.weight": "k",
        "bert.encoder.layer.4.attention.self.value.weight": "v",
        "bert.encoder.layer.4.attention.output.dense.weight": "o",
        "bert.encoder.layer.4.attention.output.LayerNorm.weight": "norm",
        "bert.encoder.layer.4.intermediate.dense.weight": "up",
        "bert.encoder.layer.4.output.dense.weight": "down",
        "bert.embeddings.position_ids": "buffer",
        "bert.pooler.dense.weight": "pooler",
        "pooler.dense.bias": "bias",
        "cls.predictions.decoder.weight": "lm_head",
        "cls.predictions.bias": "bias",
    },
    "whisper": {
        "model.encoder.conv1.weight": "conv",
        "model.encoder.embed_positions.weight": "embedding",
        "model.encoder.layers.0.self_attn.out_proj.weight": "o",
        "model.decoder.layers.0.encoder_attn.v_proj.bias": "bias",
        "model.encoder.layers.0.self_attn.k_proj.weight": "k",
        "model.decoder.layers.0.encoder_attn.q_proj.weight": "q",
        "model.decoder.layers.0.encoder_attn_layer_norm.weight": "norm",
        "model.decoder.layers.0.fc2.weight": "down",
        "proj_out.weight": "lm_head",
    },
    "t5": {
        "shared.weight": "embedding",
        "encoder.block.0.layer.0.SelfAttention.q.weight": "q",
        "encoder.block.0.layer.0.SelfAttention.o.weight": "o",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "embedding",
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "gate",
        "encoder.block.0.layer.1.DenseReluDense.wo.weight": "down",
        "encoder.block.0.layer.1.layer_norm.weight": "norm",
    },
    "gguf": {
        "token_embd.weight": "embedding",
        "blk.11.attn_q.weight": "q",
        "blk.11.attn_output.weight": "o",
        "blk.11.ffn_gate.weight": "gate",
        "blk.11.ffn_gate_inp.weight": "router",
        "blk.11.attn_norm.weight": "norm",
        "output_norm.weight": "norm",
    },
    "of no known family": {
        "model.layers.0.mixer.mystery.weight": "other",
    },
    "quantised": {
        "model.layers.0.mlp.down_proj.weight_scale_inv": "quantisation",
        "model.layers.0.mlp.down_proj.qzeros": "quantisation",
        "model.layers.0.mlp.down_proj.g_idx": "quantisation",
        "model.layers.0.mlp.down_proj.weight.absmax": "quantisation",
    },
}


@pytest.mark.parametrize(
    ("name", "role"), [pair for family in NAMES.values() for pair in family.items()], ids=lambda value: str(value)
)
def test_roles_of_every_family(name: str, role: str) -> None:
    assert classify_role(name, 3 if role == "conv" else 2) == role


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.12.mlp.up_proj.weight", 12),
        ("transformer.h.3.attn.c_attn.weight", 3),
        ("bert.encoder.layer.4.output.dense.weight", 4),
        ("encoder.block.5.layer.1.DenseReluDense.wo.weight", 5),
        ("blk.11.attn_q.weight", 11),
        ("model.layers.2.mlp.experts.17.w1.weight", 2),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_layers(name: str, layer: int | None) -> None:
    assert find_layer(name) == layer


def test_only_projections_and_convolutions_may_be_chosen() -> None:
    roles = {role for family in NAMES.values() for role in family.values()}
    eligible = {role for role in roles if explain_ineligible(role) is None}
    assert eligible == {"q", "k", "v", "o", "gate", "up", "down", "qkv", "gate_up", "conv", "other"}


@pytest.mark.parametrize(
    ("name", "num_dimensions", "role"),
    [
        ("encoder.stages.0.layers.0.layer.1.normalization.weight", 1, "norm"),
        ("encoder.stages.0.layers.0.layer.1.convolution.weight", 4, "conv"),
        ("encoder.layers.0.feed_forward.intermediate_dense.weight", 2, "up"),
        ("encoder.layers.0.feed_forward.output_dense.weight", 2, "down"),
        ("embeddings.cls_token", 3, "embedding"),
        ("embeddings.patch_embeddings.projection.weight", 4, "conv"),
        ("layers.0.mlp.experts.gate_up_proj_bias", 2, "bias"),
    ],
)
def test_encoders_of_images_and_speech(name: str, num_dimensions: int, role: str) -> None:
    assert classify_role(name, num_dimensions) == role
