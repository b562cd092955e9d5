"""Scans see the composite's tensors, and a Plan of the bare language model is applied to the one inside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import oblong
from oblong.errors import VerificationError
from oblong.models.stored_tensors import open_stored_tensors
from oblong.tuning.apply import apply_plan
from oblong.tuning.prove import digest_unstored, prove_frozen
from tests.speech_builders import build_tiny, make_tones, wake_attention
from tests.tuning_builders import SELECTED, make_plan

PREFIX = "model.language_model."


@pytest.mark.parametrize("tied", [False, True])
def test_a_plan_of_the_bare_language_model_trains_the_one_inside(tmp_path: Path, tied: bool) -> None:
    model, _ = build_tiny(tmp_path, dtype="bfloat16", tied=tied)
    llama = tmp_path / "llama"
    model.freeze_towers()
    stored = open_stored_tensors(llama)
    applied = apply_plan(model.as_causal_lm(), make_plan(llama), stored=stored)
    assert set(applied.trained) == set(SELECTED)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = {PREFIX + name.removeprefix("model.") for name in SELECTED}
    assert {name for name in trainable if "multi_modal_projector" not in name} == chosen
    assert all(model.get_parameter(name).dtype == torch.float32 for name in chosen)
    model.train()
    assert model.model.language_model.training
    assert not model.model.audio_tower.training
    moved = model.get_parameter(sorted(chosen)[0])
    with torch.no_grad():
        moved.add_(1.0)
    unstored = digest_unstored(applied.model, stored)
    proof = prove_frozen(applied, stored, model_name=str(llama), unstored=unstored)
    assert set(proof.tensors) == set(SELECTED)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with pytest.raises(VerificationError, match="is outside the Plan, and moved"):
        prove_frozen(applied, stored, model_name=str(llama), unstored=unstored)


def test_float32_masters_learn_and_transcribe_under_autocast(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path, dtype="bfloat16")
    wake_attention(model)
    model.freeze_towers()
    applied = apply_plan(model.as_causal_lm(), make_plan(tmp_path / "llama"))
    request = processor.apply_transcription_request(make_tones([0.3, 0.8]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**request, labels=request["input_ids"] % 258).loss.backward()
        output = model.generate(**request, max_new_tokens=4)
    assert output.shape == (2, request["input_ids"].shape[1] + 4)
    adaptor = model.model.multi_modal_projector.parameters()
    for parameter in (*applied.trained.values(), *adaptor):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_the_language_model_can_be_seen_on_its_own(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    view = model.as_causal_lm()
    assert type(view).__name__ == "LlamaForCausalLM"
    assert {id(parameter) for parameter in view.parameters()} == {
        id(parameter) for part in (model.model.language_model, model.lm_head) for parameter in part.parameters()
    }
    inputs = processor.tokenizer("some text", return_tensors="pt")
    assert torch.equal(view(**inputs).logits, model(**inputs).logits)


def test_a_scan_of_the_composite_gives_the_bare_models_units(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    bare = oblong.scan(tmp_path / "llama")
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    for subject in (model, tmp_path / "saved"):
        whole = oblong.scan(subject)
        measured = {unit.tensor: unit for unit in whole.units}
        for unit in bare.units:
            twin = measured[PREFIX + unit.tensor.removeprefix("model.")] if unit.tensor != "lm_head.weight" else None
            if twin is not None:
                assert (twin.role, twin.layer, twin.status, twin.shape) == (
                    unit.role,
                    unit.layer,
                    unit.status,
                    unit.shape,
                )
                assert twin.measures == unit.measures


def test_a_plan_of_the_composite_names_its_own_tensors(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    plan = oblong.plan(oblong.scan(tmp_path / "saved", include=r"language_model"), criterion="kappa", budget="3")
    assert all(tensor.name.startswith(PREFIX) for tensor in plan.tensors)
    applied = apply_plan(model, plan, stored=open_stored_tensors(tmp_path / "saved"))
    assert len(applied.trained) == 3
