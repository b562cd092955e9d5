"""What should move moves, in float32, and everything else is bitwise what it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import oblong
from oblong.errors import MissingExtraError, PlanMismatchError, SelectionError, SpeechModelError
from oblong.models.causal_lm import Dtype
from oblong.models.speech_lm import build_speech_lm
from oblong.speech.arms import ArmRecipe, LoraRecipe, apply_arm, choose_lora_rank, count_lora_parameters
from tests.arm_builders import KINDS, Study, make_arm, transcribe
from tests.speech_builders import build_tiny, find_real_models, save_chatty_llama
from tests.tuning_builders import SELECTED, make_plan

PREFIX = "model.language_model."


@pytest.fixture(autouse=True)
def _require_peft(request: pytest.FixtureRequest) -> None:
    if "lora" in request.node.name:
        pytest.importorskip("peft")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_arm_names_moves_and_nothing_else(tmp_path: Path, kind: str, dtype: Dtype) -> None:
    study = Study.make(tmp_path, kind, dtype=dtype)
    meant = {id(parameter) for part in (study.applied.trained, study.applied.adaptor) for parameter in part.values()}
    before = {name: parameter.detach().clone() for name, parameter in study.model.named_parameters()}
    study.train()
    for name, parameter in study.model.named_parameters():
        if id(parameter) in meant:
            assert parameter.dtype == torch.float32, name
            # A bias of keys moves no attention.
            assert not torch.equal(parameter, before[name]) or name.endswith("k_proj.bias"), name
        else:
            assert torch.equal(parameter, before[name]), name
            assert parameter.dtype == (torch.float32 if dtype == "float32" else torch.bfloat16), name
    assert study.applied.num_trainable == sum(p.numel() for p in study.model.parameters() if p.requires_grad)


def test_every_arm_says_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    studies = {kind: Study.make(tmp_path, kind) for kind in KINDS}
    descriptions = {kind: study.applied.description for kind, study in studies.items()}
    # 32 x 48 twice and 16 x 32; and rank 2 on 2 layers of 2 (32 + 32) + 2 (32 + 16) + 3 (32 + 48).
    assert descriptions == {
        "plan": "Plan test: 3 tensors, 3,584 parameters",
        "adaptor_only": "adaptor only",
        "lora": "LoRA, rank 2, alpha 4, on 14 linear layers: 1,856 parameters",
        "audio_gated_lora": "audio-gated LoRA, rank 2, alpha 4, on 14 linear layers: 1,856 parameters",
    }
    assert {kind: study.applied.kind for kind, study in studies.items()} == {kind: kind for kind in KINDS}
    assert set(studies["plan"].applied.trained) == set(SELECTED)
    assert not studies["adaptor_only"].applied.trained


def test_the_masters_are_the_files_numbers_where_the_model_is_narrower(tmp_path: Path) -> None:
    build_tiny(tmp_path, dtype="float32")
    study = Study.make(tmp_path, "plan", dtype="bfloat16")
    whole, _ = build_tiny(tmp_path, dtype="float32")
    for name, parameter in study.applied.trained.items():
        assert torch.equal(parameter, whole.get_parameter(PREFIX + name.removeprefix("model.")))


def test_a_plan_of_the_composites_scan_is_the_same_arm(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path, dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    scan = oblong.scan(tmp_path / "saved", include=r"language_model")
    plan = oblong.plan(scan, criterion="kappa", budget="3")
    plan.write(tmp_path / "composite.yaml")
    applied = apply_arm(model, ArmRecipe(plan=str(tmp_path / "composite.yaml")), language_model=tmp_path / "llama")
    assert {PREFIX + name.removeprefix("model.") for name in applied.trained} == plan.tensor_names
    assert applied.plan == plan


@pytest.mark.parametrize("kind", ["lora", "audio_gated_lora"])
def test_lora_leaves_text_alone_only_where_it_is_gated(tmp_path: Path, kind: str) -> None:
    bare, processor = build_tiny(tmp_path)
    text = processor.tokenizer(["some text", "more of it, and longer"], return_tensors="pt", padding=True)
    expected = bare(**text).logits
    study = Study.make(tmp_path, kind, dtype="float32")
    assert torch.equal(study.model(**text).logits, expected)  # B is zero
    before = transcribe(study.model, study.processor)
    study.train(num_steps=4)
    assert torch.equal(study.model(**text).logits, expected) == (kind == "audio_gated_lora")
    assert torch.equal(study.model.as_causal_lm()(**text).logits, study.model(**text).logits)
    assert not torch.equal(transcribe(study.model, study.processor), before)


def test_lora_is_drawn_from_its_seed_alone(tmp_path: Path) -> None:
    def draw(dtype: Dtype, seed: int) -> list[torch.Tensor]:
        model, _ = build_tiny(tmp_path, dtype=dtype)
        applied = apply_arm(model, make_arm(tmp_path, "lora"), language_model=tmp_path / "llama", seed=seed)
        return list(applied.trained.values())

    build_tiny(tmp_path, dtype="bfloat16")
    first = draw("bfloat16", 0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, other = draw("float32", 0), draw("float32", 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_lora_can_be_matched_to_a_plan_in_parameters(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path)
    assert count_lora_parameters(model) == 928
    assert count_lora_parameters(model, ["q_proj"]) == 2 * 64
    assert [choose_lora_rank(model, number) for number in (1, 928, 3_000, 92_800)] == [1, 1, 3, 100]
    with pytest.raises(SelectionError, match="0 parameters are none"):
        choose_lora_rank(model, 0)


def test_lora_targets_are_found_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path)
    recipe = LoraRecipe(rank=1, target_modules=("layers.0.mlp.up_proj", "v_proj"))
    applied = apply_arm(model, ArmRecipe(lora=recipe), language_model=tmp_path / "llama")
    assert applied.lora is not None
    assert set(applied.lora.modules) == {
        "layers.0.mlp.up_proj",
        "layers.0.self_attn.v_proj",
        "layers.1.self_attn.v_proj",
    }
    assert len(applied.trained) == 6


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_proj", "query"), r"'query' matches nothing\. This language model has: down_proj, .*, q_proj"),
        (("input_layernorm",), r"'input_layernorm' is LlamaRMSNorm, not a linear layer"),
    ],
)
def test_a_lora_target_that_is_none_is_named(tmp_path: Path, targets: tuple[str, ...], message: str) -> None:
    model, _ = build_tiny(tmp_path)
    with pytest.raises(SelectionError, match=message):
        apply_arm(model, ArmRecipe(lora=LoraRecipe(target_modules=targets)), language_model=tmp_path / "llama")


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path)
    other = save_chatty_llama(tmp_path / "other", seed=1, dtype=torch.float32)
    make_plan(other).write(tmp_path / "other.yaml")
    arm = ArmRecipe(plan=str(tmp_path / "other.yaml"))
    with pytest.raises(PlanMismatchError, match="the Plan was made from other weights"):
        apply_arm(model, arm, language_model=tmp_path / "llama")
    with pytest.raises(SpeechModelError, match=r"does not hold the language model of .*other"):
        apply_arm(model, arm, language_model=other)
    allowed = ArmRecipe(plan=arm.plan, allow_other_weights=True)
    assert set(apply_arm(model, allowed, language_model=tmp_path / "llama").trained) == set(SELECTED)


def test_lora_without_peft_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build_tiny(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"LoRA needs .* pip install 'oblong\[adapters\]'"):
        apply_arm(model, make_arm(tmp_path, "lora"), language_model=tmp_path / "llama")


def test_gated_lora_in_a_real_model_leaves_text_bit_identical(tmp_path: Path) -> None:
    whisper, language_model = find_real_models()
    model, processor = build_speech_lm(whisper, language_model)
    text = processor.tokenizer("The capital of France is", return_tensors="pt")
    expected = model(**text).logits
    recipe = LoraRecipe(rank=2, target_modules=("v_proj",), audio_gated=True)
    applied = apply_arm(model, ArmRecipe(lora=recipe), language_model=language_model)
    study = Study(folder=tmp_path, model=model, processor=processor, applied=applied)
    study.train(num_steps=1)
    assert all(parameter.any() for name, parameter in applied.trained.items() if "lora_B" in name)
    assert torch.equal(model(**text).logits, expected)


def test_one_model_takes_one_arm(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    study = Study.make(tmp_path, "lora")
    with pytest.raises(SpeechModelError, match="apply one arm to a freshly built model"):
        apply_arm(study.model, make_arm(tmp_path, "lora"), language_model=tmp_path / "llama")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of"),
        ({"plan": "a.yaml", "adaptor_only": True}, "exactly one of"),
        ({"plan": "a.yaml", "lora": {}}, "exactly one of"),
        ({"adaptor_only": True, "allow_other_weights": True}, "goes with a plan"),
        ({"lora": {"rank": 0}}, "greater than 0"),
        ({"lora": {"ranks": 1}}, "Extra inputs"),
        ({"columns": {"rank": 2}}, r"columns stay beside the language model.*take lora: \{audio_gated: true\}"),
    ],
)
def test_an_arm_is_exactly_one_thing(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArmRecipe.model_validate(fields)


def test_a_bare_target_is_a_list_of_one() -> None:
    recipe = LoraRecipe.model_validate({"target_modules": "q_proj", "rank": 8})
    assert (recipe.target_modules, recipe.scale) == (("q_proj",), 16.0)
