"""Checkpoint names lead to the parameters that transformers makes of them, and to no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from oblong.errors import PlanMismatchError
from oblong.models.names import find_fused_parameter, match_parameters
from oblong.models.quiet import quiet_transformers
from oblong.planning import plan
from oblong.scanning import scan
from oblong.tuning.apply import apply_plan

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "eos_token_id": None,
    "pad_token_id": None,
}


def make_mixtral() -> PreTrainedModel:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


def make_olmoe() -> PreTrainedModel:
    torch.manual_seed(0)
    return OlmoeForCausalLM(OlmoeConfig(**SIZES, num_experts=3, num_experts_per_tok=2))


@pytest.fixture(params=[make_mixtral, make_olmoe])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    """A mixture of experts, and its checkpoint with the names that its family has on the Hub."""
    model: PreTrainedModel = request.param()
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    return model, tmp_path


def test_every_tensor_is_a_parameter_value_for_value_or_a_part_of_one(saved: tuple[PreTrainedModel, Path]) -> None:
    model, path = saved
    weights = load_file(path / "model.safetensors")
    matches = match_parameters(model, weights)
    for name, parameter in matches.items():
        assert torch.equal(parameter, weights[name])
    experts = {name for name in weights if ".experts." in name}
    assert set(matches) == weights.keys() - experts
    assert len(experts) == 9
    assert {find_fused_parameter(model, name) for name in experts} == {
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    }


def test_a_renamed_router_is_found() -> None:
    model = make_mixtral()
    name = "model.layers.0.block_sparse_moe.gate.weight"
    assert match_parameters(model, [name])[name] is model.get_parameter("model.layers.0.mlp.gate.weight")
    assert find_fused_parameter(model, name) is None


@pytest.mark.parametrize("name", ["nothing", "model.layers.7.block_sparse_moe.gate.weight", "experts.0.w1.weight"])
def test_a_name_that_leads_nowhere_is_absent(name: str) -> None:
    model = make_mixtral()
    assert match_parameters(model, [name]) == {}
    assert find_fused_parameter(model, name) is None


def test_a_plan_of_single_experts_is_refused_with_the_reason(saved: tuple[PreTrainedModel, Path]) -> None:
    model, path = saved
    chosen = plan(scan(path, include="experts"), budget="2")
    with pytest.raises(PlanMismatchError, match=r"merges it with others into model\.layers\.0\.mlp\.experts\.\w+ as"):
        apply_plan(model, chosen)


def test_a_plan_without_experts_or_of_the_live_model_applies(saved: tuple[PreTrainedModel, Path]) -> None:
    model, path = saved
    chosen = plan(scan(path, exclude="experts"), budget="3")
    assert set(apply_plan(model, chosen).trained) == chosen.tensor_names
    fused = plan(scan(model, include=r"experts\.down_proj"), budget="1")
    assert set(apply_plan(model, fused).trained) == {"model.layers.0.mlp.experts.down_proj"}
