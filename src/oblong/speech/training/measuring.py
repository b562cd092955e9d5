"""One evaluation: does it listen, what does it write, and what is its text worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.records import AlignmentProbe, SpeechPoint, SpeechStage, WordErrors
from oblong.speech.decoding import DecodingSettings
from oblong.speech.training.alignment import choose_probe_clips, probe_alignment
from oblong.speech.training.batches import BatchMaker, Clip
from oblong.speech.training.forward import SpeechForward
from oblong.speech.training.processes import ALONE, Processes
from oblong.speech.training.recipe import SpeechTrainRecipe
from oblong.speech.training.scoring import (
    RetentionCorpus,
    compare_text_loss,
    measure_text_loss,
    rounded,
    score_clips,
    score_texts,
)
from oblong.speech.training.spelling import Speller
from oblong.speech.training.state import StageState


@dataclass(slots=True, kw_only=True)
class Measurer:
    """Measures a model in training; its weights, mode and random numbers are as before afterwards.

    Attributes:
        model, processor, forward, maker: of the run.
        sets: held-out utterances, by name of the test set.
        texts: to watch.
        recipe: how much of it to measure.
        device: of the model.
        processes: that divide the work; each gets the whole result.
        is_sharded: the language model is divided among them.
    """

    model: SpeechLMForConditionalGeneration
    processor: SpeechLMProcessor
    forward: SpeechForward
    maker: BatchMaker
    sets: Mapping[str, Sequence[Clip]]
    texts: Mapping[str, RetentionCorpus]
    recipe: SpeechTrainRecipe
    device: torch.device
    processes: Processes = ALONE
    is_sharded: bool = False

    def measure_text(self) -> Mapping[str, float]:
        """Nats per token of the texts, as the model is now."""
        self.model.eval()  # type: ignore[no-untyped-call]
        return measure_text_loss(self.model, self.processor, self.texts)

    def measure_spell(
        self, current: StageState, loss: float | None, base: Mapping[str, float], speller: Speller
    ) -> SpeechPoint:
        """An evaluation before stage A: what the adaptor spells by itself, and whether the language model listens."""
        self.model.eval()  # type: ignore[no-untyped-call]
        point = self._make_point(current, loss, self._probe(), {}, base, base)
        return point.model_copy(update={"spelling": self._score_spelling(speller)})

    def measure_align(self, current: StageState, loss: float | None, base: Mapping[str, float]) -> SpeechPoint:
        """An evaluation of stage A: nothing is decoded before the gate opens, and the text is that of the base."""
        self.model.eval()  # type: ignore[no-untyped-call]
        probe = self._probe()
        gate = self.recipe.align.gate
        is_open = gate is not None and max(probe.gap, *(point.alignment_gap for point in current.points), -1.0) >= gate
        words = self._score() if is_open else {}
        return self._make_point(current, loss, probe, words, base, base)

    def measure_adapt(
        self,
        current: StageState,
        loss: float | None,
        base: Mapping[str, float],
        trained: Mapping[str, nn.Parameter],
    ) -> SpeechPoint:
        """An evaluation of stage B, of the model as it would be saved: masters rounded to the towers' dtype."""
        self.model.eval()  # type: ignore[no-untyped-call]
        with rounded(trained, self.model.lm_head.weight.dtype):
            probe, words = self._probe(), self._score()
            losses = measure_text_loss(self.model, self.processor, self.texts) if trained else base
        return self._make_point(current, loss, probe, words, losses, base)

    def _probe(self) -> AlignmentProbe:
        clips = choose_probe_clips(list(self.sets.values()), self.recipe.probe_utterances)
        return probe_alignment(
            self.forward,
            self.maker,
            clips,
            batch_size=self.recipe.decode_batch,
            device=self.device,
            processes=self.processes,
        )

    def _score(self) -> Mapping[str, WordErrors]:
        settings = DecodingSettings(batch_size=self.recipe.decode_batch)
        return {
            name: score_clips(
                self.model, self.processor, clips, settings, processes=self.processes, in_step=self.is_sharded
            )
            for name, clips in self.sets.items()
        }

    def _score_spelling(self, speller: Speller) -> Mapping[str, WordErrors]:
        def spell(clips: Sequence[Clip]) -> list[str]:
            size = self.recipe.decode_batch
            batches = [self.maker.make(clips[start : start + size]) for start in range(0, len(clips), size)]
            ids = [row for batch in batches for row in speller.spell(batch.to(self.device))]
            return [self.processor.tokenizer.decode(row) for row in ids]

        return {name: score_texts(clips, spell(clips)) for name, clips in self.sets.items()}

    def _make_point(
        self,
        current: StageState,
        loss: float | None,
        probe: AlignmentProbe,
        words: Mapping[str, WordErrors],
        losses: Mapping[str, float],
        base: Mapping[str, float],
    ) -> SpeechPoint:
        self.model.train()
        return SpeechPoint(
            stage=current.stage,
            step=current.step,
            seconds=current.seconds,
            num_utterances=current.num_utterances,
            loss=loss,
            alignment=probe,
            wer=words,
            retention=compare_text_loss(losses, base),
        )


Measure = Callable[[StageState, float | None], SpeechPoint]


def reuse_point(point: SpeechPoint) -> SpeechPoint:
    """The last evaluation of stage A as the first of stage B: the weights are the same."""
    return point.model_copy(
        update={"stage": SpeechStage.ADAPT, "step": 0, "seconds": 0.0, "num_utterances": 0, "loss": None}
    )
