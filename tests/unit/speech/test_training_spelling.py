"""The speller's loss is CTC over the language model's embeddings, and it teaches the adaptor what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.records import SpeechRunStatus, SpeechStage
from oblong.speech.training import train_speech
from oblong.speech.training.batches import BatchMaker, Clip
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.spelling import Speller, count_spelling_steps
from tests.training_builders import WORDS, make_data, make_recipe

SPELL = {"epochs": 60, "learning_rate": 1e-2}
ONE_BATCH = {"max_seconds": 8.0, "max_utterances": 8, "num_buckets": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def recipe(folder: Path) -> SpeechTrainRecipe:
    return make_recipe(folder)


@pytest.fixture(scope="module")
def spoken(recipe: SpeechTrainRecipe) -> tuple[Any, Any, list[Clip]]:
    model, processor, _ = build_model(recipe, ["en"])
    heard = hear(read_inputs(recipe, Path("recipe")).train[0], model, processor, recipe, ignore_progress)
    return model, processor, list(heard.clips)


def sum_over_paths(log_probabilities: torch.Tensor, target: list[int]) -> float:
    """-log of the summed probability of all paths (M, V) that collapse to the target; by enumeration."""
    paths = torch.cartesian_prod(*[torch.arange(log_probabilities.shape[1])] * len(log_probabilities))
    kept = []
    for path in paths:
        collapsed = [place for place in torch.unique_consecutive(path).tolist() if place]
        if collapsed == target:
            kept.append(log_probabilities[torch.arange(len(path)), path].sum())
    return -float(torch.logsumexp(torch.stack(kept), 0))


def compare_length(speller: Speller, model: Any, clips: list[Clip]) -> float:
    """Mean over utterances of the mean over audio tokens of log(rms / rms of the speller's embeddings)^2."""
    letters = {letter for clip in clips for letter in clip.utterance.text}
    tokens = [model.get_audio_features(audio_features=[clip.frames]).pooler_output.detach() for clip in clips]
    sizes = [frames.reshape(-1, frames.shape[-1]).square().mean(-1).sqrt() for frames in tokens]
    known = speller.get_buffer("_embeddings")
    assert len(known) == len(letters) + 1  # and the blank
    length = known.square().mean().sqrt()
    return sum(float((size / length).log().square().mean()) for size in sizes) / len(clips)


def test_the_loss_sums_over_every_way_to_spell(spoken: tuple[Any, Any, list[Clip]]) -> None:
    model, processor, clips = spoken
    two = [clips[0], clips[3]]  # "ab" and "gh": two letters, a token each
    speller = Speller(model, processor, two)
    batch = BatchMaker(processor).make(two)
    expected = []
    for clip in two:
        tokens = model.get_audio_features(audio_features=[clip.frames]).pooler_output
        ids = processor.tokenizer(clip.utterance.text, add_special_tokens=False)["input_ids"]
        letters = sorted({*processor.tokenizer("abgh", add_special_tokens=False)["input_ids"]})
        blank = processor.tokenizer(" ", add_special_tokens=False)["input_ids"][-1]
        table = model.get_input_embeddings().weight[[blank, *letters]]
        log_probabilities = (tokens @ table.T * speller.scale).log_softmax(-1)
        target = [letters.index(token) + 1 for token in ids]
        expected.append(sum_over_paths(log_probabilities.detach(), target) / len(target))
    assert speller(batch).loss.item() == pytest.approx(
        sum(expected) / 2 + compare_length(speller, model, two), rel=1e-5
    )


def test_only_the_adaptor_and_the_head_get_gradients(spoken: tuple[Any, Any, list[Clip]]) -> None:
    model, processor, clips = spoken
    speller = Speller(model, processor, clips)
    speller(BatchMaker(processor).make(clips)).loss.backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched
    assert all(name.startswith("model.multi_modal_projector.") for name in touched)
    assert all(parameter.grad is not None for parameter in speller.own_parameters.values())
    model.zero_grad()


def test_a_transcript_longer_than_its_audio_counts_as_zero(spoken: tuple[Any, Any, list[Clip]]) -> None:
    model, processor, clips = spoken
    from dataclasses import replace

    long = replace(clips[0], utterance=replace(clips[0].utterance, text="ab" * 40))
    speller = Speller(model, processor, [long])
    loss = speller(BatchMaker(processor).make([long])).loss
    assert loss.item() == pytest.approx(compare_length(speller, model, [long]), rel=1e-5)
    unweighted = Speller(model, processor, [long], length_weight=0.0)
    assert unweighted(BatchMaker(processor).make([long])).loss.item() == 0.0
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad()


def test_it_learns_to_spell_before_the_language_model_listens(folder: Path) -> None:
    # A tone is the same from beginning to end: only attention, which knows positions, can tell its two letters apart.
    changes: dict[str, Any] = {"adaptor": {"kind": "attention", "num_heads": 4}, "batch": ONE_BATCH}
    recipe = make_recipe(folder, output=str(folder / "spelled"), spell=SPELL, **changes)
    run = train_speech(recipe)
    assert run.stages[0].stage is SpeechStage.SPELL
    first, *_, last = (
        point.spelling["tones"] for point in run.points if point.stage is SpeechStage.SPELL and point.spelling
    )
    assert first.wer is not None
    assert first.wer > 0.5
    assert last.wer == 0.0
    ratios = [point.alignment.rms_ratio for point in run.points if point.stage is SpeechStage.SPELL]
    assert ratios[-1] == pytest.approx(1, abs=0.2)  # audio tokens are as long as embeddings
    assert last.num_utterances == len(WORDS)
    assert all(not point.spelling for point in run.points if point.stage is not SpeechStage.SPELL)


def test_a_kill_while_spelling_loses_nothing(folder: Path) -> None:
    changes: dict[str, Any] = {"spell": {"epochs": 4}, "align": {"max_steps": 4, "gate": 0.99, "learning_rate": 1e-2}}
    whole = train_speech(make_recipe(folder, output=str(folder / "whole"), **changes))

    class Kill(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.stage is SpeechStage.SPELL and progress.activity == "training" and progress.done == 5:
            raise Kill

    recipe = make_recipe(folder, output=str(folder / "killed"), **changes)
    with pytest.raises(Kill):
        train_speech(recipe, on_progress=kill)
    resumed = train_speech(recipe)
    assert whole.status is resumed.status is SpeechRunStatus.NOT_ALIGNED
    assert [point.loss for stage in resumed.stages for point in stage.history] == [
        point.loss for stage in whole.stages for point in stage.history
    ]
    assert [point.alignment for point in resumed.points] == [point.alignment for point in whole.points]


def test_steps_are_epochs_times_batches(spoken: tuple[Any, Any, list[Clip]], recipe: SpeechTrainRecipe) -> None:
    _, _, clips = spoken
    rule = recipe.batch.make_rule()
    assert count_spelling_steps(clips, rule, epochs=1.0, seed=0) == 2  # 8 utterances, 4 in a batch
    assert count_spelling_steps(clips, rule, epochs=2.5, seed=0) == 5


@pytest.mark.parametrize(("given", "epochs"), [(True, 6), (False, None), ({"epochs": 2}, 2)])
def test_yes_is_a_recipe(folder: Path, given: Any, epochs: float | None) -> None:
    spell = make_recipe(folder, spell=given).spell
    assert (None if spell is None else spell.epochs) == epochs
