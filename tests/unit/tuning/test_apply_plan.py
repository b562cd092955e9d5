"""Applying a Plan is exact: its tensors train in float32, everything else is frozen, and misfits are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oblong.errors import PlanMismatchError
from oblong.models.causal_lm import load_causal_lm
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import Plan
from oblong.tuning.apply import apply_plan
from tests.tuning_builders import SELECTED, list_tensor_names, make_plan, save_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "model")


def test_exactly_the_plan_trains_in_float32(model: Path) -> None:
    applied = apply_plan(load_causal_lm(str(model)).model, make_plan(model), stored=open_stored_tensors(model))
    for name, parameter in applied.model.named_parameters():
        assert parameter.requires_grad == (name in SELECTED)
        assert parameter.dtype == (torch.float32 if name in SELECTED else torch.bfloat16)
    weights = load_file(model / "model.safetensors")
    assert applied.num_trainable == sum(weights[name].numel() for name in SELECTED)
    assert applied.num_parameters == sum(weight.numel() for weight in weights.values())


def test_a_tied_tensor_counts_once_and_stays_tied(model: Path) -> None:
    name = "model.embed_tokens.weight"
    loaded = load_causal_lm(str(model)).model
    applied = apply_plan(loaded, make_plan(model, [name]), stored=open_stored_tensors(model))
    assert applied.num_trainable == 257 * 32
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.lm_head.weight.dtype == torch.float32


def test_masters_hold_what_a_wider_file_holds(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "wide", dtype=torch.float32)
    applied = apply_plan(load_causal_lm(str(model)).model, make_plan(model), stored=open_stored_tensors(model))
    weights = load_file(model / "model.safetensors")
    assert all(torch.equal(applied.trained[name], weights[name]) for name in SELECTED)
    assert applied.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_other_weights_are_refused_unless_allowed(model: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", seed=1)
    plan = make_plan(model, [name for name in list_tensor_names(model) if "layers" in name and "norm" not in name])
    loaded = load_causal_lm(str(other)).model
    with pytest.raises(PlanMismatchError, match=r"(?s)other weights.*and 9 more.*--allow-other-weights") as caught:
        apply_plan(loaded, plan, stored=open_stored_tensors(other))
    assert str(caught.value).count("the digest differs") == 5
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    applied = apply_plan(loaded, plan, stored=open_stored_tensors(other), allow_other_weights=True)
    assert set(applied.trained) == plan.tensor_names


def test_digests_are_checked_without_the_file_too(model: Path, tmp_path: Path) -> None:
    other = load_causal_lm(str(save_tiny_llama(tmp_path / "other", seed=1))).model
    with pytest.raises(PlanMismatchError, match="the digest differs"):
        apply_plan(other, make_plan(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "model.layers.9.mlp.up_proj.weight"}, r"layers\.9.*the model has no such tensor"),
        ({"shape": (1, 2)}, r"the model has shape \(32, 48\), the Plan \(1, 2\)"),
    ],
)
def test_names_and_shapes_must_fit(model: Path, change: dict[str, object], message: str) -> None:
    plan = make_plan(model)
    tensors = (plan.tensors[0].model_copy(update=change), *plan.tensors[1:])
    with pytest.raises(PlanMismatchError, match=message):
        apply_plan(load_causal_lm(str(model)).model, plan.model_copy(update={"tensors": tensors}))


def test_an_empty_plan_is_refused(model: Path) -> None:
    empty = make_plan(model).model_copy(update={"tensors": ()})
    with pytest.raises(PlanMismatchError, match="names no tensor"):
        apply_plan(load_causal_lm(str(model)).model, empty)


def test_a_tensor_that_would_train_unplanned_is_refused(tmp_path: Path) -> None:
    """A file that stores a tied tensor under both names: the Plan must name both."""
    model = save_tiny_llama(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    loaded = load_causal_lm(str(model)).model
    stored = open_stored_tensors(model)
    with pytest.raises(PlanMismatchError, match=r"lm_head\.weight: tied to model\.embed_tokens\.weight"):
        apply_plan(loaded, make_plan(model, ["model.embed_tokens.weight"]), stored=stored)
    both: Plan = make_plan(model, ["model.embed_tokens.weight", "lm_head.weight"])
    assert apply_plan(loaded, both, stored=stored).num_trainable == 257 * 32
