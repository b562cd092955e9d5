"""Whole speech trainings on tiny random models: they learn, stop, survive kills, and leave alone what is frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oblong.cli.main import run as run_cli
from oblong.errors import DataError, OutputExistsError, RecipeError, UserError
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import SpeechRun, SpeechRunStatus, SpeechStage
from oblong.speech.arms import load_speech_delta
from oblong.speech.loading import load_transcriber
from oblong.speech.training import SpeechProgress, SpeechTrainRecipe, train_speech
from oblong.speech.training.forward import SpeechForward
from tests.training_builders import WORDS, make_data, make_recipe
from tests.transcription_builders import write_manifest
from tests.tuning_builders import SELECTED

ONE_BATCH = {"max_seconds": 8.0, "max_utterances": 8, "num_buckets": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def overfitted(folder: Path) -> SpeechRun:
    """Eight utterances, learned by heart, through both stages."""
    recipe = make_recipe(
        folder,
        output=str(folder / "overfitted"),
        align={"max_steps": 300, "gate": 0.3, "learning_rate": 1e-2},
        adapt={
            "arm": {"plan": str(folder / "plan.yaml")},
            "steps": 300,
            "learning_rate": 3e-3,
            "adaptor_factor": 1.0,
        },
        batch=ONE_BATCH,
        stop={"wer": 0.0},
        evaluate_every=50,
        save_every=1000,
    )
    return train_speech(recipe)


def make_short(folder: Path, **changes: Any) -> SpeechTrainRecipe:
    """Six steps of stage B, from the overfitted run's alignment."""
    return make_recipe(folder, **{"align": {"start_from": str(folder / "overfitted")}} | changes)


def test_eight_utterances_are_learned_to_wer_zero(overfitted: SpeechRun, folder: Path) -> None:
    assert overfitted.status is SpeechRunStatus.TARGET
    assert [stage.stage for stage in overfitted.stages] == [SpeechStage.ALIGN, SpeechStage.ADAPT]
    assert overfitted.stages[0].aligned_at == overfitted.stages[0].num_steps
    last = overfitted.points[-1]
    assert last.macro_wer == 0.0
    assert last.alignment_gap > 0.5
    assert last.retention["prose"].ratio != 1.0
    assert overfitted.best is not None
    assert (overfitted.best.wer, overfitted.best.step) == (0.0, last.step)
    assert SpeechRun.read(folder / "overfitted" / "run.json") == overfitted


def test_the_best_checkpoint_writes_what_was_learned(overfitted: SpeechRun, folder: Path) -> None:
    from oblong.corpora.speech import load_audio
    from oblong.speech.decoding import DecodingSettings

    loaded = load_transcriber(str(folder / "overfitted" / "best"), device="cpu")
    clips = [load_audio(folder / f"{index}.wav") for index in range(len(WORDS))]
    for lang in ("en", None):  # trained on one language: both requests get the same prompt
        heard = loaded.transcriber.transcribe(clips, lang, DecodingSettings())
        assert [window.text for window in heard] == list(WORDS)


def test_what_is_frozen_stays_bit_for_bit(overfitted: SpeechRun, folder: Path) -> None:
    model: Any
    model, _ = load_speech_delta(folder / "overfitted" / "best", dtype="float32")
    stored = open_stored_tensors(folder / "llama")
    parameters = dict(model.as_causal_lm().named_parameters())
    moved = {name for name in stored.names if not torch.equal(parameters[name].data, stored.read(name).float())}
    assert moved == set(SELECTED)


def test_the_journal_has_every_evaluation(overfitted: SpeechRun, folder: Path) -> None:
    lines = (folder / "overfitted" / "points.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [point.step for point in overfitted.points]


class Kill(BaseException):
    """As if the process had been killed."""


def run_with_kills(recipe: SpeechTrainRecipe, *kills: tuple[str, int]) -> SpeechRun:
    """Kill the run at (activity, step) one after the other; each time it goes on."""
    for activity, step in kills:

        def stop(progress: SpeechProgress, activity: str = activity, step: int = step) -> None:
            if (progress.activity, progress.done) == (activity, step):
                raise Kill

        with pytest.raises(Kill):
            train_speech(recipe, on_progress=stop)
    return train_speech(recipe)


def strip(run: SpeechRun) -> list[dict[str, Any]]:
    """The evaluations without their times."""
    return [point.model_dump(exclude={"seconds"}) for point in run.points]


@pytest.mark.usefixtures("overfitted")
@pytest.mark.parametrize("arm", ["plan", "lora"])
def test_a_killed_stage_b_ends_in_the_same_bits(folder: Path, arm: str) -> None:
    arms: dict[str, Any] = {"plan": {"plan": str(folder / "plan.yaml")}, "lora": {"lora": {"rank": 2}}}
    masking = {"time_share": 0.5, "time_length": 2} if arm == "plan" else None
    adapt = {"arm": arms[arm], "steps": 6, "learning_rate": 1e-3, "masking": masking}
    whole = train_speech(make_short(folder, adapt=adapt, output=str(folder / f"whole-{arm}")))
    killed = run_with_kills(
        make_short(folder, adapt=adapt, output=str(folder / f"killed-{arm}")),
        ("evaluating", 0),
        ("training", 1),
        ("training", 5),
        ("evaluating", 6),
    )
    assert strip(killed) == strip(whole)
    assert [stage.history for stage in killed.stages] == [stage.history for stage in whole.stages]
    for name in ("adaptor", "trained" if arm == "plan" else "lora"):
        ours, theirs = (
            load_file(folder / f"{way}-{arm}" / "last" / f"{name}.safetensors") for way in ("killed", "whole")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(folder.glob("*.partial"))


def test_a_killed_stage_a_ends_in_the_same_bits_and_a_shut_gate_ends_the_run(folder: Path) -> None:
    align = {"max_steps": 5, "gate": 0.99, "learning_rate": 1e-2}
    whole = train_speech(make_recipe(folder, align=align, output=str(folder / "whole-a")))
    assert whole.status is SpeechRunStatus.NOT_ALIGNED
    assert "align.learning_rate" in whole.reason
    assert [stage.stage for stage in whole.stages] == [SpeechStage.ALIGN]
    assert whole.best is None
    killed = run_with_kills(
        make_recipe(folder, align=align, output=str(folder / "killed-a")), ("training", 1), ("training", 4)
    )
    assert strip(killed) == strip(whole)
    ours, theirs = (load_file(folder / way / "last" / "adaptor.safetensors") for way in ("killed-a", "whole-a"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.usefixtures("overfitted")
def test_a_loss_that_is_not_finite_ends_the_run_with_the_weights_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = SpeechForward.forward
    calls = []

    def fail(self: SpeechForward, *args: Any, **kwargs: Any) -> Any:
        output: Any = forward(self, *args, **kwargs)
        if torch.is_grad_enabled():
            calls.append(output)
            if len(calls) == 3:
                output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(SpeechForward, "forward", fail)
    run = train_speech(make_short(folder, output=str(folder / "nan")))
    assert run.status is SpeechRunStatus.DIVERGED
    assert "step 3" in run.reason
    assert run.stages[-1].num_steps == 2
    assert run.best is not None
    for name in ("best", "last"):
        tensors = load_file(folder / "nan" / name / "trained.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@pytest.mark.usefixtures("overfitted")
@pytest.mark.parametrize("kind", ["plan", "gated"])
def test_bfloat16_trains_float32_masters_and_gated_adapters_forget_nothing(folder: Path, kind: str) -> None:
    arms: dict[str, Any] = {
        "plan": {"plan": str(folder / "plan.yaml")},
        "gated": {"lora": {"rank": 2, "audio_gated": True}},
    }
    adapt = {"arm": arms[kind], "steps": 4, "learning_rate": 1e-2}
    run = train_speech(make_short(folder, adapt=adapt, dtype="bfloat16", output=str(folder / f"bf16-{kind}")))
    assert run.status is SpeechRunStatus.COMPLETED
    ratio = run.points[-1].retention["prose"].ratio
    assert (ratio == 1.0) == (kind == "gated")
    name = "trained" if kind == "plan" else "lora"
    tensors = load_file(folder / f"bf16-{kind}" / "best" / f"{name}.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.usefixtures("overfitted")
def test_missing_audio_is_skipped_and_counted(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "speech.jsonl").read_text().splitlines()]
    manifest = write_manifest(folder / "holes.jsonl", [*rows, rows[0] | {"audio": "gone.wav"}])
    data = {"train": str(manifest), "evaluate": {"tones": str(folder / "speech.jsonl")}, "limits": {"evaluate": 2}}
    run = train_speech(make_short(folder, data=data, output=str(folder / "holes")))
    assert run.status is SpeechRunStatus.COMPLETED
    assert run.train[0].num_utterances == len(WORDS)
    assert [Path(item.audio).name for item in run.train[0].skipped] == ["gone.wav"]
    assert (run.evaluate["tones"].num_utterances, run.evaluate["tones"].num_limited) == (2, len(WORDS) - 2)


@pytest.mark.usefixtures("overfitted")
def test_a_changed_recipe_does_not_go_on_with_another_run(folder: Path) -> None:
    def stop(progress: SpeechProgress) -> None:
        if progress.activity == "training":
            raise Kill

    with pytest.raises(Kill):
        train_speech(make_short(folder, output=str(folder / "changed")), on_progress=stop)
    with pytest.raises(UserError, match=r"seed was 0, is 1[^$]*--fresh"):
        train_speech(make_short(folder, output=str(folder / "changed"), seed=1))
    shutil.rmtree(folder / "changed.partial")


def test_everything_that_cannot_be_read_is_listed_before_any_work(folder: Path) -> None:
    recipe = make_recipe(
        folder,
        encoder="no-such-model",
        data={"train": "none.jsonl", "evaluate": {"tones": "speech:none"}},
        retention={"prose": "none.txt"},
        align={"start_from": "nowhere"},
        adapt={"arm": {"plan": "none.yaml"}, "steps": 1},
    )
    with pytest.raises(RecipeError) as caught:
        train_speech(recipe)
    places = {problem.split(":")[0] for problem in caught.value.problems}
    expected = {"encoder", "data.train.0", "data.evaluate.tones", "retention", "align.start_from", "adapt.arm.plan"}
    assert places == expected
    assert "fetch-data" in str(caught.value)


@pytest.mark.usefixtures("overfitted")
def test_an_adaptor_that_was_trained_with_its_language_model_is_no_start(folder: Path) -> None:
    recipe = make_recipe(folder, align={"start_from": str(folder / "overfitted" / "best")}, output=str(folder / "no"))
    with pytest.raises(UserError, match="aligned/"):
        train_speech(recipe)


def test_speech_without_one_usable_sound_is_refused(folder: Path) -> None:
    manifest = write_manifest(folder / "empty.jsonl", [{"audio": "gone.wav", "text": "ab", "lang": "en"}])
    data = {"train": str(manifest), "evaluate": {"tones": str(folder / "speech.jsonl")}}
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        train_speech(make_recipe(folder, data=data, output=str(folder / "none")))


@pytest.mark.usefixtures("overfitted")
def test_the_command_trains_and_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(make_short(folder).to_yaml(), encoding="utf-8")
    output = folder / "by-command"
    command = ["speech", "train", str(recipe), "--set", "adapt.steps=2", "-o", str(output)]
    assert run_cli(command) == 0
    printed = capsys.readouterr().out
    assert "completed: all 2 steps" in printed
    assert "WER tones" in printed
    assert run_cli(command) == 2
    assert run_cli([*command[:3], "--set", "nonsense", "-o", str(output)]) == 2
    assert run_cli([*command, "--force", "--dry-run", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert forecast["num_arm"] == sum(
        load_file(output / "best" / "trained.safetensors")[name].numel() for name in SELECTED
    )
    assert forecast["seconds_per_step"] > 0
    with pytest.raises(OutputExistsError):
        train_speech(make_short(folder, output=str(output)))
