from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.errors import DataError, OperationalError
from oblong.records import Ending
from oblong.speech.arms import ArmRecipe, LoraRecipe, apply_arm
from oblong.speech.decoding import Decoded, DecodingSettings
from oblong.speech.training import scoring
from oblong.speech.training.alignment import (
    group_by_length,
    measure_pairwise_cosine,
    probe_alignment,
    require_partners,
)
from oblong.speech.training.batches import BatchMaker, Clip, SpeechBatch
from oblong.speech.training.forward import SpeechForward, find_prefix_length
from oblong.speech.training.preparing import build_model, hear, read_inputs
from oblong.speech.training.progress import ignore_progress
from oblong.speech.training.scoring import rounded
from tests.training_builders import make_data, make_recipe

CPU = torch.device("cpu")


class Bench:
    """A fresh model with an arm, and its clips."""

    def __init__(self, folder: Path, arm: dict[str, Any]) -> None:
        recipe = make_recipe(folder)
        inputs = read_inputs(recipe, Path("recipe"))
        self.model, self.processor, _ = build_model(recipe, ["en"])
        self.clips = hear(inputs.train[0], self.model, self.processor, recipe, ignore_progress).clips
        self.maker = BatchMaker(self.processor)
        self.applied = apply_arm(self.model, ArmRecipe.model_validate(arm), language_model=recipe.language_model)
        if self.applied.lora is not None:
            for name, parameter in self.applied.trained.items():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        self.model.train()

    def measure(self, *, share_prefix: bool, dtype: torch.dtype = torch.float32) -> tuple[float, list[torch.Tensor]]:
        """Loss of a batch, and the gradients."""
        forward = SpeechForward(self.model, dtype=dtype, share_prefix=share_prefix)
        self.model.zero_grad(set_to_none=True)
        loss: Any = forward(self.maker.make(self.clips[:4])).loss
        loss.backward()
        parameters = [*self.applied.trained.values(), *self.applied.adaptor.values()]
        return float(loss.detach()), [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("speech"))


@pytest.mark.parametrize("kind", ["adaptor_only", "plan", "lora", "gated"])
def test_a_shared_prefix_gives_the_loss_and_gradients_of_the_plain_way(folder: Path, kind: str) -> None:
    arms: dict[str, dict[str, Any]] = {
        "adaptor_only": {"adaptor_only": True},
        "plan": {"plan": str(folder / "plan.yaml")},
        "lora": {"lora": LoraRecipe(rank=2)},
        "gated": {"lora": LoraRecipe(rank=2, audio_gated=True)},
    }
    bench = Bench(folder, arms[kind])
    plain, expected = bench.measure(share_prefix=False)
    shared, gradients = bench.measure(share_prefix=True)
    assert shared == pytest.approx(plain, rel=1e-5)
    assert len(gradients) == len(expected)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_prefix_is_what_all_rows_have_before_the_audio(folder: Path) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    batch = bench.maker.make(bench.clips[:4])
    length = find_prefix_length(batch, bench.processor.audio_token_id)
    prompt = bench.processor.make_prompt(language="en")
    before: str = prompt.split(bench.processor.audio_token)[0]
    assert bench.processor.tokenizer.decode(batch.input_ids[0, :length]) == before
    assert length > 0


def test_a_language_model_that_keeps_its_past_in_another_way_is_refused(folder: Path) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    forward = SpeechForward(bench.model, dtype=torch.float32)
    batch = bench.maker.make(bench.clips[:4])
    forward.check_sharing(batch)
    prefix = forward._get_prefix(batch.input_ids[:1, :5])
    forward._frozen_prefix = (
        tuple(batch.input_ids[0, : find_prefix_length(batch, bench.processor.audio_token_id)].tolist()),
        tuple((keys * 3, values) for keys, values in prefix),
    )
    with pytest.raises(OperationalError, match="share_prefix: false"):
        forward.check_sharing(batch)


def test_labels_are_right_and_wrong_ones_are_noticed(folder: Path) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    bench.maker.check(bench.clips)
    batch = bench.maker.make(bench.clips[:2])
    learned = [bench.processor.tokenizer.decode(row[row >= 0]) for row in batch.labels]
    assert learned == [f"{clip.utterance.text}{bench.processor.end_of_turn}" for clip in bench.clips[:2]]
    assert batch.num_labels == int((batch.labels >= 0).sum())
    assert batch.num_tokens == int(batch.attention_mask.sum())


def test_a_model_that_does_not_listen_has_no_gap(folder: Path) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    with torch.no_grad():
        bench.model.model.multi_modal_projector.projection.weight.zero_()
    forward = SpeechForward(bench.model.eval(), dtype=torch.float32)  # type: ignore[no-untyped-call]
    same = [clip for clip in bench.clips if clip.num_frames == bench.clips[0].num_frames] * 4
    probe = probe_alignment(forward, bench.maker, same, batch_size=4, device=CPU)
    assert probe.gap == 0
    # Every audio token is the projection's bias.
    assert probe.pairwise_cosine == pytest.approx(1.0, abs=1e-5)


def test_nobody_is_probed_with_their_own_audio(folder: Path) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    pairs: list[tuple[Clip, Clip]] = []

    class Watching(BatchMaker):
        def make(self, clips: Sequence[Clip], *, heard: Sequence[Clip] | None = None) -> SpeechBatch:
            pairs.extend(zip(clips, heard or [], strict=False))
            return super().make(clips, heard=heard)

    maker = Watching(bench.processor)
    forward = SpeechForward(bench.model, dtype=torch.float32)
    probe_alignment(forward, maker, bench.clips, batch_size=3, device=CPU)
    assert len(pairs) == len(bench.clips)
    assert all(clip is not other for clip, other in pairs)


@pytest.mark.parametrize(("size", "sizes"), [(3, [2, 3, 2]), (2, [2, 3, 2]), (1, [2, 3, 2]), (8, [7])])
def test_groups_are_neighbours_in_length_and_never_one_alone(folder: Path, size: int, sizes: list[int]) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    groups = list(group_by_length(bench.clips[:7], size))
    assert sorted(len(group) for group in groups) == sorted(sizes)
    lengths = [clip.num_frames for group in groups for clip in group]
    assert lengths == sorted(lengths)


def test_without_two_utterances_of_a_language_there_is_no_gap_to_measure(folder: Path) -> None:
    first, second, *_ = Bench(folder, {"adaptor_only": True}).clips
    german = replace(second, utterance=replace(second.utterance, lang="de"))
    require_partners([first, german, second])
    for clips in ([first], [first, german]):
        with pytest.raises(DataError, match=r"no two are of one language: add some, .* align\.gate: null"):
            require_partners(clips)


def test_a_loop_that_decoding_stopped_is_counted_though_one_round_of_it_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(folder, {"adaptor_only": True})
    rows = [Decoded(tokens=(97, 98), ending=ending) for ending in (Ending.END, Ending.LOOP, Ending.LIMIT)]
    monkeypatch.setattr(scoring, "generate_guarded", lambda *inputs, **options: rows)
    errors = scoring.score_clips(bench.model, bench.processor, bench.clips[:3], DecodingSettings())
    assert (errors.num_utterances, errors.num_loops) == (3, 1)


def test_pairwise_cosine_is_the_mean_over_pairs() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    # Pairs: 0, 1, 0.
    assert measure_pairwise_cosine(tokens) == pytest.approx(1 / 3)
    assert measure_pairwise_cosine(tokens[:1]) == 0


def test_rounding_is_undone_bit_for_bit() -> None:
    parameter = torch.nn.Parameter(torch.randn(5))
    before = parameter.detach().clone()
    with pytest.raises(KeyError), rounded({"a": parameter}, torch.bfloat16):
        assert parameter.dtype == torch.bfloat16
        raise KeyError
    assert torch.equal(parameter, before)
