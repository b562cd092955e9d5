"""The parts of fused tensors do what their names say in the forward pass of the model that transformers builds.

No layout is written down twice: a part is changed in a tiny random model, and the model shows what it was. Changing q
must leave the cached keys and values as they are, k only the keys may change, v only the values; because the parts
cover every row once, that settles all rows. Doubling `up` must double what an expert gives, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, PreTrainedModel

from oblong import scan
from oblong.checkpoints import MatrixPart, classify_role, split_into_matrices
from tests.tolerances import SCAN_AGAINST_SVD

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
WITH_HEADS = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}

FUSED_QKV: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, multi-query": ("falcon", {**WITH_HEADS, "multi_query": True, "new_decoder_architecture": False}),
    "falcon, multi-head": ("falcon", {**WITH_HEADS, "multi_query": False, "new_decoder_architecture": False}),
    "falcon, grouped": ("falcon", {**WITH_HEADS, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "bloom": ("bloom", {"vocab_size": 50, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    "mpt": ("mpt", {"vocab_size": 50, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 16}),
    "gpt_neox": ("gpt_neox", {**WITH_HEADS, "intermediate_size": 24}),
    "gpt2": ("gpt2", {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4}),
    "gpt_bigcode, multi-query": (
        "gpt_bigcode",
        {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "multi_query": True},
    ),
    "gpt_bigcode, multi-head": (
        "gpt_bigcode",
        {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "multi_query": False},
    ),
    "phi3": ("phi3", SMALL),
    "dbrx": (
        "dbrx",
        {
            **{"vocab_size": 50, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 16},
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 100.0},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 4, "hidden_size": 32},
        },
    ),
}
MOE = {**SMALL, "num_experts_per_tok": 2, "head_dim": 8}
FUSED_EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {**MOE, "num_local_experts": 4}),
    "mixtral, as wide as gate and up": ("mixtral", {**MOE, "num_local_experts": 4, "intermediate_size": 16}),
    "olmoe": ("olmoe", {**MOE, "num_experts": 4}),
    "qwen2_moe": (
        "qwen2_moe",
        {**MOE, "num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_moe": ("qwen3_moe", {**MOE, "num_experts": 4, "moe_intermediate_size": 24}),
    "llama4": (
        "llama4_text",
        {**MOE, "num_local_experts": 4, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 24},
    ),
    "llama4, as wide as gate and up": (
        "llama4_text",
        {
            **MOE,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 1,
            "intermediate_size_mlp": 24,
            "intermediate_size": 16,
        },
    ),
    "granitemoe": ("granitemoe", {**MOE, "num_local_experts": 4}),
    "dbrx": FUSED_QKV["dbrx"],
}


def build(model_type: str, options: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **options)
    model: PreTrainedModel = AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.2)
            elif "bias" in name:
                parameter.zero_()
    return model


def read_written_config(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """What stands in the file, which leaves out what transformers takes for granted."""
    model.config.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def iter_parts(
    model: PreTrainedModel, config: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor, tuple[MatrixPart, ...]]]:
    for name, values in model.named_parameters():
        role = classify_role(name, values.ndim)
        yield name, values.data, split_into_matrices(name, tuple(values.shape), role, config)


def scale_part(values: torch.Tensor, part: MatrixPart, factor: float) -> None:
    values.view(part.view)[part.index] *= factor


@torch.no_grad()
def run_cached(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cached keys and values of the first layer, and the output."""
    output = model(torch.arange(1, 8)[None], use_cache=True)
    layer = output.past_key_values.layers[0]
    return layer.keys.clone(), layer.values.clone(), output.last_hidden_state.clone()


@pytest.mark.parametrize("case", FUSED_QKV)
def test_q_k_and_v_are_what_the_model_takes_them_for(case: str, tmp_path: Path) -> None:
    model = build(*FUSED_QKV[case])
    config = read_written_config(model, tmp_path)
    (fused,) = (
        (values, parts) for name, values, parts in iter_parts(model, config) if {p.role for p in parts} == set("qkv")
    )
    values, parts = fused
    assert sum(part.matrix_shape[0] * part.matrix_shape[1] for part in parts) == values.numel()
    keys, cached, output = run_cached(model)
    original = values.clone()
    for part in parts:
        scale_part(values, part, 3.0)
        new_keys, new_values, new_output = run_cached(model)
        assert torch.equal(new_keys, keys) is (part.role != "k")
        assert torch.equal(new_values, cached) is (part.role != "v")
        assert not torch.equal(new_output, output)
        values.copy_(original)


@torch.no_grad()
def run_experts(model: PreTrainedModel) -> torch.Tensor:
    """What the experts of the first layer give together, before anything is added."""
    (module,) = (m for name, m in model.named_modules() if name.endswith("experts") and "shared" not in name)
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    model(torch.arange(1, 8)[None])
    hook.remove()
    return outputs[0]


def list_expert_parts(model: PreTrainedModel, config: dict[str, Any]) -> list[tuple[torch.Tensor, MatrixPart]]:
    return [
        (values, part)
        for _, values, parts in iter_parts(model, config)
        for part in parts
        if part.part and part.part.startswith("expert.")
    ]


@pytest.mark.parametrize("case", FUSED_EXPERTS)
def test_gate_and_up_of_every_expert_are_what_the_model_takes_them_for(case: str, tmp_path: Path) -> None:
    model = build(*FUSED_EXPERTS[case])
    expert_parts = list_expert_parts(model, read_written_config(model, tmp_path))
    assert sorted({part.role for _, part in expert_parts}) == ["down", "gate", "up"]
    assert len(expert_parts) == 12
    before = run_experts(model)
    assert before.abs().max() > 0
    for role in ("up", "down"):
        for values, part in expert_parts:
            if part.role == role:
                scale_part(values, part, 2.0)
        after = run_experts(model)
        assert torch.equal(after, 2 * before)
        before = after
    for values, part in expert_parts:
        if part.role == "gate":
            scale_part(values, part, 2.0)
    assert not torch.equal(run_experts(model), 2 * before)


def test_gpt_oss_alternates(tmp_path: Path) -> None:
    """It gives (up + 1) * gate * sigmoid(1.702 gate): nothing without gate, something without up."""
    model = build("gpt_oss", {**MOE, "num_local_experts": 4, "layer_types": ["full_attention"]})
    with torch.no_grad():
        for name, bias in model.named_parameters():
            if name.endswith("_bias"):
                bias.zero_()
    expert_parts = list_expert_parts(model, read_written_config(model, tmp_path))
    for role, is_silent in (("up", False), ("gate", True)):
        originals = [values.clone() for values, _ in expert_parts]
        for values, part in expert_parts:
            if part.role == role:
                scale_part(values, part, 0.0)
        assert (run_experts(model).abs().max() == 0) == is_silent
        for (values, _), original in zip(expert_parts, originals, strict=True):
            values.copy_(original)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "deepseek_v2"])
def test_deepseek_expands_k_and_v_head_by_head(model_type: str, tmp_path: Path) -> None:
    """Without v nothing leaves the attention; without k's rows, with rotary rows of zero, q decides nothing."""
    options = {
        **{**SMALL, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 20, "qk_rope_head_dim": 8},
        **{"qk_nope_head_dim": 6, "v_head_dim": 10, "first_k_dense_replace": 1, "n_routed_experts": 4, "head_dim": 8},
        **{"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    }
    model = build(model_type, options)
    config = read_written_config(model, tmp_path)
    (values, parts) = next((v, p) for n, v, p in iter_parts(model, config) if n.endswith("kv_b_proj.weight"))
    assert [(part.role, part.matrix_shape) for part in parts] == [("k", (24, 20)), ("v", (40, 20))]
    module = model.get_submodule("layers.0.self_attn")
    assert isinstance(module, torch.nn.Module)
    original = values.clone()
    scale_part(values, parts[1], 0.0)
    assert run_attention(model, module).abs().max() == 0
    values.copy_(original)
    scale_part(values, parts[0], 0.0)
    kv_a = model.get_parameter("layers.0.self_attn.kv_a_proj_with_mqa.weight")
    kv_a.data[20:] = 0
    before = run_attention(model, module)
    assert before.abs().max() > 0
    model.get_parameter("layers.0.self_attn.q_b_proj.weight").data.mul_(3)
    assert torch.equal(run_attention(model, module), before)


@torch.no_grad()
def run_attention(model: PreTrainedModel, module: torch.nn.Module) -> torch.Tensor:
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output[0].clone()))
    model(torch.arange(1, 8)[None])
    hook.remove()
    return outputs[0]


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("falcon", {"hidden_size": 32, "num_attention_heads": 4}),
        ("falcon", {"hidden_size": 32, "num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 3}),
        ("codegen", {"n_embd": 32, "n_head": 4}),
        ("gpt_neox", {"hidden_size": 32}),
        ("internlm2", {"num_attention_heads": 4}),
    ],
)
def test_what_the_configuration_does_not_settle_stays_whole(model_type: str, config: dict[str, Any]) -> None:
    name = "h.0.self_attention.query_key_value.weight"
    (part,) = split_into_matrices(name, (96, 32), "qkv", {"model_type": model_type, **config})
    assert part.part is None
    assert part.note is not None


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 32, 48), 2), ((4, 48, 32), 1), ((4, 32, 32), None), ((4, 20, 20), None)]
)
def test_where_releases_differ_the_width_tells(shape: tuple[int, ...], axis: int | None) -> None:
    config = {"text_config": {"model_type": "qwen3_vl_moe_text", "hidden_size": 32}}
    parts = split_into_matrices("model.layers.0.mlp.experts.gate_up_proj", shape, "gate_up", config)
    if axis is None:
        assert len(parts) == 4
        assert all(part.note for part in parts)
    else:
        assert len(parts) == 8
        assert all(part.matrix_shape[axis - 1] == 24 for part in parts)


def test_the_stacks_of_dbrx_are_scanned_expert_by_expert(tmp_path: Path) -> None:
    model = build(*FUSED_QKV["dbrx"])
    model.config.save_pretrained(tmp_path)
    save_file({name: values.clone() for name, values in model.state_dict().items()}, tmp_path / "model.safetensors")
    result = scan(str(tmp_path))
    for leaf in ("w1", "v1", "w2"):
        name = f"blocks.0.ffn.experts.mlp.{leaf}"
        for expert, values in enumerate(model.get_parameter(name).detach().double().view(4, 24, 32)):
            measures = result[f"{name}[expert.{expert}]"].measures
            assert measures is not None
            assert measures.kappa == pytest.approx(torch.linalg.cond(values).item(), rel=SCAN_AGAINST_SVD)
