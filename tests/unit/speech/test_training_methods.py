"""Methods against forgetting in stage B: nothing at strength 0, something otherwise, the same bits after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from oblong.errors import MethodError, UserError
from oblong.methods import METHODS, build_method, parse_method
from oblong.methods.protocol import Method
from oblong.methods.registry import InSpeech
from oblong.models.causal_lm import load_causal_lm
from oblong.records import SpeechRunStatus
from oblong.speech.training import train_speech
from oblong.speech.training.method_fit import SPEECH_METHODS, refuse_processes
from tests.held_builders import (
    Kill,
    assert_same,
    kill_and_resume,
    kill_at_third_step,
    make_held,
    make_plain,
    make_short,
    read_all,
    read_trained,
)
from tests.training_builders import make_recipe
from tests.tuning_builders import SELECTED

TEXT_HOOKS = ("extend_batches", "compute_extra_loss", "build_optimizer")
ACTIVE: list[dict[str, Any]] = [
    {"name": "l2_sp", "strength": 20.0},
    {"name": "ewc", "strength": 20.0},
    {"name": "mas", "strength": 20.0},
    {"name": "si", "strength": 20.0, "warmup_steps": 2},
    {"name": "null_space", "strength": 100.0},
    {"name": "kfac_damping", "strength": 100.0},
    {"name": "subspace_projection", "strength": 0.5},
    {"name": "svb", "strength": 1.0, "epsilon": 1e-4, "every": 2},
    {"name": "eigenvalue_decay", "strength": 1.0},
    {"name": "mofo", "strength": 0.8},
    {"name": "half_fine_tuning", "strength": 0.5},
    {"name": "freeze_bottom", "strength": 0.5},
    {"name": "wise_ft", "strength": 0.5},
    {"name": "packnet", "strength": 0.5, "retrain_steps": 1},
    {"name": "evolutionary_pruning", "strength": 0.5, "groups": 8, "population": 2, "generations": 1},
    {"name": "gem", "blocks": 2},
    {"name": "a_gem", "blocks": 2},
    {"name": "replay", "strength": 0.5},
    {"name": "kl_to_base", "strength": 20.0},
    {"name": "lwf", "strength": 20.0},
    {"name": "mask_the_target", "strength": 20.0},
    {"name": "eaft", "strength": 1.0},
    {"name": "flow", "strength": 1.0},
    {"name": "stm", "strength": 0.5},
]

ACTING_ON_CONFLICT = ("gem", "a_gem")
# With a state that is measured, drawn, counted or accumulated, or weights that differ from the masters.
RESUMED = (
    "ewc",
    "si",
    "null_space",
    "half_fine_tuning",
    "packnet",
    "evolutionary_pruning",
    "wise_ft",
    "gem",
    "replay",
    "kl_to_base",
    "flow",
    "stm",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain(tmp_path_factory.mktemp("methods"))


def list_text_hooks(name: str) -> list[str]:
    method = build_method(parse_method(name))
    return [hook for hook in TEXT_HOOKS if getattr(type(method), hook) is not getattr(Method, hook)]


def test_the_registry_says_which_methods_hook_into_text_batches() -> None:
    assert {name: bool(list_text_hooks(name)) for name in METHODS} == {
        name: spec.in_speech is not InSpeech.TENSORS for name, spec in METHODS.items()
    }


def test_every_method_that_fits_is_tried() -> None:
    assert {"plain", *(str(method["name"]) for method in ACTIVE)} == set(SPEECH_METHODS)


@pytest.mark.parametrize("name", ["plain", *(str(method["name"]) for method in ACTIVE)])
def test_strength_0_is_no_method_bit_for_bit(folder: Path, name: str) -> None:
    train_speech(make_held(folder, {"name": name, "strength": 0.0}, f"zero-{name}"))
    assert_same(read_all(folder, f"zero-{name}"), read_all(folder, "plain"))


@pytest.mark.parametrize("method", ACTIVE, ids=lambda method: str(method["name"]))
def test_a_method_changes_what_is_learned_and_resumes_to_the_same_bits(folder: Path, method: dict[str, Any]) -> None:
    name = str(method["name"])
    train_speech(make_held(folder, method, name))
    held, plain = read_trained(folder, name), read_trained(folder, "plain")
    if name not in ACTING_ON_CONFLICT:
        assert any(not torch.equal(held[key], value) for key, value in plain.items())
    if name in RESUMED:
        kill_and_resume(make_held(folder, method, f"killed-{name}"))
        assert_same(read_all(folder, f"killed-{name}"), read_all(folder, name))
        assert_same(read_trained(folder, f"killed-{name}", "best"), read_trained(folder, name, "best"))


def measure_old_drift(folder: Path, name: str) -> float:
    """Root of sum |(W - W0) X|^2 over the trained layers, X their inputs in the base on the run's old text."""
    model: Any = load_causal_lm(str(folder / "llama"), dtype="float32").model
    model.eval()
    blocks = load_file(folder / "held" / "anchor.safetensors")["blocks"]
    inputs: dict[str, torch.Tensor] = {}

    def remember(tensor: str) -> Any:
        return lambda module, arguments: inputs.__setitem__(tensor, arguments[0].flatten(0, -2))

    for tensor in SELECTED:
        model.get_submodule(tensor.removesuffix(".weight")).register_forward_pre_hook(remember(tensor))
    with torch.no_grad():
        model(input_ids=blocks)
    base, trained = dict(model.named_parameters()), read_trained(folder, name)
    drifts = [(inputs[key] @ (trained[key] - base[key].detach()).T).square().sum() for key in SELECTED]
    return float(torch.stack(drifts).sum().sqrt())


def test_null_space_moves_little_along_what_old_text_uses(folder: Path) -> None:
    train_speech(make_held(folder, {"name": "null_space", "strength": 1e3}, "held"))
    assert measure_old_drift(folder, "held") < 0.2 * measure_old_drift(folder, "plain")


def test_what_wise_ft_measures_is_what_it_saves(folder: Path) -> None:
    """Half of the way back: masters are halfway between base and tuned, in best/ and last/ alike."""
    run = train_speech(make_held(folder, {"name": "wise_ft", "strength": 0.5}, "halfway"))
    base = load_file(folder / "llama" / "model.safetensors")
    tuned, halfway = read_trained(folder, "plain"), read_trained(folder, "halfway")
    for key, value in halfway.items():
        torch.testing.assert_close(value, 0.5 * (base[key].float() + tuned[key]))
    again = train_speech(make_held(folder, {"name": "wise_ft", "strength": 1.0}, "back"))
    assert [point.retention["prose"].ratio for point in again.points] == [1.0] * len(again.points)
    assert run.points[-1].retention["prose"].ratio != 1.0
    assert_same(read_trained(folder, "back", "best"), {key: base[key].float() for key in tuned})


def test_the_record_names_the_method(folder: Path) -> None:
    run = train_speech(make_held(folder, {"name": "l2_sp", "strength": 2.0}, "named"))
    assert run.recipe["adapt"]["method"]["name"] == "l2_sp"
    assert run.arm.description.endswith("parameters, l2_sp 2")


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ({"method": "classp"}, "is the optimizer of all that trains"),
        ({"method": "information_bottleneck"}, "adds a module to the language model"),
        ({"method": "replay"}, "anchor: self_generated"),
        ({"method": "null_space"}, "anchor: self_generated"),
        ({"method": "nonsense"}, "no method is called 'nonsense'"),
        ({"method": "kl_to_base", "arm": {"adaptor_only": True}}, "the language model reads text as before"),
        ({"method": "kl_to_base", "arm": {"lora": {"rank": 2, "audio_gated": True}}}, "reads text as before"),
        ({"method": "l2_sp", "arm": {"lora": {"rank": 2}}}, "the arm lora trains none of them"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(folder: Path, adapt: dict[str, Any], expected: str) -> None:
    fields = {"arm": {"plan": str(folder / "plan.yaml")}, "steps": 1} | adapt
    with pytest.raises(ValidationError) as caught:
        make_recipe(folder, adapt=fields)
    assert expected in str(caught.value)


def test_old_text_that_cannot_be_read_or_is_too_short_is_found_before_stage_a(folder: Path) -> None:
    short = folder / "short.txt"
    short.write_text("Once.", encoding="utf-8")
    seen: list[str] = []
    for source, place in ((folder / "none.txt", "adapt.anchor: .*none"), (short, "short")):
        align = {"max_steps": 1, "gate": None}
        recipe = make_short(folder, source.stem, align=align, method="ewc", anchor=str(source), sequence_length=64)
        with pytest.raises(UserError, match=place):
            train_speech(recipe, on_progress=lambda progress: seen.append(progress.activity))
    assert "training" not in seen


def test_a_run_from_before_methods_goes_on_and_one_with_another_strength_does_not(folder: Path) -> None:
    align = {"start_from": str(folder / "plain")}
    with pytest.raises(Kill):
        train_speech(make_short(folder, "older", align=align), on_progress=kill_at_third_step)
    stored = folder / "older.partial" / "recipe.yaml"
    started = yaml.safe_load(stored.read_text(encoding="utf-8"))
    for field in ("method", "anchor", "sequence_length"):
        del started["adapt"][field]
    stored.write_text(yaml.safe_dump(started), encoding="utf-8")
    with pytest.raises(UserError, match=r"adapt\.method was None, is \{'name': 'l2_sp'"):
        train_speech(make_held(folder, {"name": "l2_sp"}, "older"))
    assert train_speech(make_short(folder, "older", align=align)).status is SpeechRunStatus.COMPLETED


@pytest.mark.parametrize(("name", "reason"), [("l2_sp", "by estimates"), ("stm", "a batch as a whole")])
def test_several_processes_are_refused_where_they_would_not_do_what_one_does(name: str, reason: str) -> None:
    for method, count in (("plain", 2), ("kl_to_base", 2), ("replay", 2), (name, 1)):
        refuse_processes(parse_method(method), count)
    with pytest.raises(MethodError, match=f"{reason}.*2 processes.*take one of replay, kl_to_base"):
        refuse_processes(parse_method(name), 2)
