"""Methods from a tuning recipe: resumed bit for bit, verified, and refused where they cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.errors import MethodError
from oblong.methods import build_method, parse_method
from oblong.methods.mixin import refuse_setting
from oblong.tuning import tune, verify_run
from tests.method_builders import make_llama, make_trainer
from tests.tuning_builders import make_recipe

METHODS_TRIED: list[dict[str, Any]] = [
    {"name": "ewc", "strength": 5.0, "blocks": 3},
    {"name": "replay", "strength": 0.5},
    {"name": "packnet"},
    {"name": "evolutionary_pruning", "groups": 8, "population": 3, "generations": 1, "zero_freed": True},
    {"name": "classp"},
]
ANCHOR = {"sources": "self_generated", "blocks": 4}


class KilledError(Exception):
    """Stands for the end of the process."""


def kill(step: int, total: int, loss: float) -> None:
    if step == 5:
        raise KilledError


def read_delta(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "delta" / "delta.safetensors")


@pytest.mark.parametrize("method", METHODS_TRIED, ids=lambda method: str(method["name"]))
def test_a_killed_run_with_a_method_ends_in_the_same_delta(tmp_path: Path, method: dict[str, Any]) -> None:
    """In bf16 with float32 masters; the anchor is generated once and kept with the run."""
    fields: dict[str, Any] = {"method": method, "anchor": ANCHOR, "save_every": 2}
    straight = make_recipe(tmp_path, **fields, output=str(tmp_path / "straight"))
    tune(straight)
    cut = make_recipe(tmp_path, **fields, output=str(tmp_path / "cut"))
    with pytest.raises(KilledError):
        tune(cut, on_progress=kill)
    assert (tmp_path / "cut.partial" / "anchor.safetensors").exists()
    run = tune(cut)
    assert run.recipe["method"]["name"] == method["name"]
    expected = read_delta(tmp_path / "straight")
    for name, tensor in read_delta(tmp_path / "cut").items():
        assert torch.equal(tensor, expected[name]), name


def test_a_method_changes_the_outcome_and_the_run_verifies(tmp_path: Path) -> None:
    tune(make_recipe(tmp_path, output=str(tmp_path / "plain")))
    tune(make_recipe(tmp_path, output=str(tmp_path / "held"), method={"name": "l2_sp", "strength": 50.0}))
    plain, held = read_delta(tmp_path / "plain"), read_delta(tmp_path / "held")
    assert any(not torch.equal(plain[name], held[name]) for name in plain)
    verify_run(tmp_path / "held")


def test_a_method_that_freezes_tensors_of_the_plan_still_verifies(tmp_path: Path) -> None:
    tune(make_recipe(tmp_path, method={"name": "freeze_bottom", "strength": 0.5}))
    verify_run(tmp_path / "run")
    base = load_file(tmp_path / "model" / "model.safetensors")
    frozen = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(read_delta(tmp_path / "run")[frozen], base[frozen])


def test_units_of_the_plan_train_and_its_other_tensors_rest_and_the_run_verifies(tmp_path: Path) -> None:
    method = {"name": "evolutionary_pruning", "groups": 8, "population": 2, "generations": 0}
    tune(make_recipe(tmp_path, method=method, anchor=ANCHOR))
    verify_run(tmp_path / "run")
    base, tuned = load_file(tmp_path / "model" / "model.safetensors"), read_delta(tmp_path / "run")
    moved = {name: (value != base[name]) for name, value in tuned.items()}
    assert not moved["model.layers.1.self_attn.v_proj.weight"].any()
    assert int(moved["model.layers.0.mlp.down_proj.weight"].any(0).sum()) == 2 * 48 // 8
    assert int(moved["model.layers.1.mlp.up_proj.weight"].any(1).sum()) == 2 * 48 // 8


@pytest.mark.parametrize(
    ("method", "sources", "expected"),
    [
        (None, None, True),
        ("l2_sp", None, True),
        ("replay", "self_generated", True),
        ("replay", "bundled:english-prose", False),
        ("replay", ["self_generated", "bundled:english-prose"], False),
        ("packnet", "bundled:english-prose", False),
        ("evolutionary_pruning", "self_generated", True),
        ("l2_sp", "bundled:english-prose", True),
        (None, "bundled:english-prose", True),
    ],
)
def test_what_is_data_free_follows_from_what_the_method_takes(
    tmp_path: Path, method: str | None, sources: Any, expected: bool
) -> None:
    assert make_recipe(tmp_path, method=method, anchor=sources).is_data_free is expected


def test_old_data_that_no_method_takes_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("old data was made")

    monkeypatch.setattr("oblong.tuning.anchor.build_anchor", refuse)
    tune(make_recipe(tmp_path, anchor=ANCHOR))
    with pytest.raises(AssertionError, match="was made"):
        tune(make_recipe(tmp_path, anchor=ANCHOR, method="replay", output=str(tmp_path / "held")))


def test_sharded_tensors_and_gradient_scalers_are_refused(tmp_path: Path) -> None:
    trainer: Any = make_trainer(tmp_path, make_llama(), parse_method("gem"))
    trainer.is_fsdp_enabled = True
    with pytest.raises(MethodError, match="shard"):
        refuse_setting(trainer, whole_tensors=True)
    refuse_setting(trainer, whole_tensors=False)
    trainer.is_fsdp_enabled = False
    trainer.args.fp16 = True
    with pytest.raises(MethodError, match="bf16"):
        refuse_setting(trainer, whole_tensors=False)


def test_a_method_that_does_not_fit_in_memory_is_refused_with_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    trainer = make_trainer(tmp_path, make_llama(), parse_method("ewc"))
    with pytest.raises(MethodError, match="GB beside the training itself"):
        trainer.train()


def test_a_penalty_does_not_depend_on_gradient_accumulation(tmp_path: Path) -> None:
    """The same four items as 1 x 4 and as 2 x 2: one penalty a step, the same gradient up to rounding."""
    ends = []
    for batch, accumulation in ((4, 1), (2, 2)):
        model = make_llama()
        make_trainer(
            tmp_path / str(batch),
            model,
            build_method(parse_method({"name": "l2_sp", "strength": 30.0})),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
        ).train()
        ends.append(model.get_parameter("model.norm.weight").detach().clone())
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("name", ["kl_to_base", "mask_the_target", "eaft", "flow"])
def test_a_mean_over_tokens_does_not_depend_on_how_they_fall_into_micro_batches(tmp_path: Path, name: str) -> None:
    """Items with many and with few predicted tokens, one with none: as 1 x 4, and as 4 x 1."""
    ends = []
    for batch in (4, 1):
        model = make_llama()
        trainer: Any = make_trainer(
            tmp_path / str(batch),
            model,
            build_method(parse_method({"name": name, "strength": 2.0})),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=4 // batch,
            optim="sgd",
            learning_rate=0.3,
        )
        for place, item in enumerate(trainer.train_dataset):
            labels_T = item["input_ids"].clone()
            labels_T[: 12 * (place % 4) // 3] = -100
            item["labels"] = labels_T
        trainer.train()
        ends.append(model.get_parameter("model.norm.weight").detach().clone())
    torch.testing.assert_close(ends[0], ends[1])


def test_what_follows_the_optimizer_sees_the_rate_of_its_step(tmp_path: Path) -> None:
    """The proximal update multiplies with it: neither the peak nor the next step's."""
    from oblong.methods.protocol import Method

    class Watch(Method):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def after_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.rates.append(optimizer.param_groups[0]["lr"])

    method = Watch()
    make_trainer(tmp_path, make_llama(), method, lr_scheduler_type="linear", warmup_steps=1).train()
    assert method.rates == pytest.approx([0.0, 1e-2, 2e-2 / 3, 1e-2 / 3])


@pytest.mark.parametrize("second", ["ewc", "l2_sp"])
def test_a_checkpoint_holds_its_own_run_s_method(tmp_path: Path, second: str) -> None:
    """A folder that is used again: what the run before left under the same name is not resumed from."""
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_steps": 1}
    left = tmp_path / "checkpoint-1" / "method.pt"
    left.parent.mkdir()
    torch.save({"importance": {}}, left)
    make_trainer(tmp_path, make_llama(), parse_method(second), **saving).train()
    if second == "ewc":
        assert torch.load(left, weights_only=True)["importance"]
    else:
        assert not left.exists()


@pytest.mark.parametrize("output", ["empty", "missing"])
def test_resuming_from_nothing_is_refused_as_by_the_trainer(tmp_path: Path, output: str) -> None:
    trainer = make_trainer(tmp_path / output, make_llama(), parse_method("l2_sp"))
    if output == "missing":
        trainer.args.output_dir = str(tmp_path / "nowhere")
    with pytest.raises(MethodError, match="has no checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)


def test_gradients_are_changed_once_a_step_before_clipping(tmp_path: Path) -> None:
    """Also where no clipping was asked for."""
    from oblong.methods.protocol import Method

    class Blow(Method):
        calls = 0

        def prepare(self, training: Any) -> None:
            self.trained = training.trained

        def change_gradients(self) -> None:
            self.calls += 1
            for value in self.trained.values():
                assert value.grad is not None
                value.grad.fill_(1e3)

    for limit in (1.0, 0.0):
        method, model = Blow(), make_llama()
        trainer = make_trainer(
            tmp_path, model, method, max_grad_norm=limit, num_steps=1, optim="sgd", lr_scheduler_type="constant"
        )
        before = model.get_parameter("model.norm.weight").detach().clone()
        trainer.train()
        moved = float((model.get_parameter("model.norm.weight").detach() - before).norm())
        assert method.calls == 1
        assert (moved <= 1e-2 * 1.01) == (limit > 0)
