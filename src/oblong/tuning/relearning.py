"""Is what was forgotten gone? A few steps on old text, from the tuned model and from the base, tell.

A tuned model can have lost the habit of an old task while still knowing it; a few steps on the old domain then bring
most of it back, which they could not if the knowledge were gone. The same steps from the base show what they are worth
by themselves: what counts is the gap between the two models, before and after.

    forgotten = loss(tuned) - loss(base),   remaining = loss(tuned, relearned) - loss(base, relearned)

Source: Zheng et al. 2025, "Spurious Forgetting in Continual Learning of Language Models", arXiv:2501.13453.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import torch

from oblong.corpora import Documents
from oblong.errors import UserError
from oblong.evaluation.evaluate import Corpus, score_corpora
from oblong.evaluation.statistics import bootstrap_difference
from oblong.evaluation.suite import answer_suite
from oblong.models.causal_lm import LoadedModel, load_causal_lm
from oblong.models.quiet import quiet_transformers
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import CorpusScore, Interval, TaskScore
from oblong.tuning.apply import apply_plan
from oblong.tuning.data import build_training_blocks
from oblong.tuning.observing import as_stored, unwrapped
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import use_threads
from oblong.tuning.trainer import train
from oblong.tuning.verify import TunedRun, locate_base, read_tuned_run

DEFAULT_STEPS: Final = 10

ScoresT = TypeVar("ScoresT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """What one model scores: held-out texts by name, and answers to questions by task."""

    corpora: Mapping[str, CorpusScore]
    suite: Mapping[str, TaskScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How much worse the tuned model is than the base on one text, nats per token, paired over documents.

    Attributes:
        forgotten: before any relearning.
        remaining: after both have read the same old text.
    """

    forgotten: Interval
    remaining: Interval

    @property
    def returned(self) -> float | None:
        """Share of what was forgotten that came back, 1 all, 0 nothing; None where none can be told from chance."""
        if self.forgotten.low <= 0:
            return None
        return 1 - self.remaining.mean / self.forgotten.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearning:
    """Both models before and after the same steps on old text."""

    base: ModelScores
    tuned: ModelScores
    base_relearned: ModelScores
    tuned_relearned: ModelScores

    def compute_gaps(self) -> dict[str, Gap]:
        """The gap between the models by text.

        Raises:
            DataError: a text has fewer than two documents.
        """
        return {
            name: Gap(
                forgotten=bootstrap_difference([self.tuned.corpora[name].documents], score.documents),
                remaining=bootstrap_difference(
                    [self.tuned_relearned.corpora[name].documents], self.base_relearned.corpora[name].documents
                ),
            )
            for name, score in self.base.corpora.items()
        }


def probe_relearning(
    run: Path,
    old_text: Documents,
    corpora: Sequence[Corpus],
    *,
    steps: int = DEFAULT_STEPS,
    learning_rate: float | None = None,
    suite: Sequence[str] = (),
    base: str | None = None,
) -> Relearning:
    """Train the run's tensors on old text for a few steps, from the tuned model and from the base, and measure both.

    Everything but the text, the steps and the method is as in the run; the learning rate is constant. Nothing is
    written.

    Args:
        run: output of `tune`.
        old_text: text of the old domain to train on; no document of `corpora` should be in it.
        corpora: held-out text, scored in windows of the run's sequence length.
        steps: optimizer steps.
        learning_rate: default: the run's.
        suite: questions to answer as well, as for `evaluate`.
        base: the base model, where it is no longer where the run found it.

    Returns:
        Scores of both models before and after.

    Raises:
        RecordError, CorruptCheckpointError, ModelNotFoundError: the run or its base is not whole.
        DataError: a text cannot be used.
        UserError: the run added modules, and has no tensors to relearn with.
        NonFinitePredictionError: a model predicts NaN or infinity, as after steps at too high a learning rate.
    """
    tuned = read_tuned_run(run)
    refuse_modules(run, tuned)
    recipe = TuneRecipe.model_validate(tuned.run.recipe)
    model = str(locate_base(tuned.delta.manifest, base))
    measure = partial(_score, corpora=corpora, suite=suite, window=recipe.sequence_length)
    with use_threads(recipe.threads), quiet_transformers():
        before = [
            measure(load_causal_lm(model, dtype=recipe.dtype, delta=delta)) for delta in (None, run / tuned.run.delta)
        ]
    after = relearn_both(run, old_text, measure, steps=steps, learning_rate=learning_rate, base=base)
    return Relearning(base=before[0], tuned=before[1], base_relearned=after[0], tuned_relearned=after[1])


def relearn_both(
    run: Path,
    old_text: Documents,
    measure: Callable[[LoadedModel], ScoresT],
    *,
    steps: int,
    learning_rate: float | None = None,
    base: str | None = None,
) -> tuple[ScoresT, ScoresT]:
    """Train the run's tensors on old text for a few steps, from the base and from the tuned model, and measure both.

    Args:
        run: output of `tune`.
        old_text: text of the old domain.
        measure: called with each model after the steps, its weights as a delta checkpoint would hold them.
        steps: optimizer steps.
        learning_rate: constant; default: the run's.
        base: the base model, where it is no longer where the run found it.

    Returns:
        What `measure` gave for the base and for the tuned model.

    Raises:
        RecordError, CorruptCheckpointError, ModelNotFoundError: the run or its base is not whole.
        DataError: the text cannot be used.
        UserError: the run added modules, and has no tensors to relearn with.
    """
    tuned = read_tuned_run(run)
    refuse_modules(run, tuned)
    recipe = _make_recipe(tuned, old_text, steps, learning_rate)
    model = str(locate_base(tuned.delta.manifest, base))

    def relearn(delta: Path | None) -> ScoresT:
        loaded = load_causal_lm(model, dtype=recipe.dtype, delta=delta)
        applied = apply_plan(loaded.model, tuned.plan, allow_other_weights=True)
        blocks, num_steps = build_training_blocks(old_text.texts, loaded.tokenizer, recipe)
        with TemporaryDirectory() as checkpoints:
            train(applied, blocks, recipe, num_steps=num_steps, checkpoints=Path(checkpoints))
        stored = open_stored_tensors(loaded.path)
        with as_stored(applied, stored, getattr(torch, recipe.dtype)), unwrapped(loaded.model):
            return measure(loaded)

    with use_threads(recipe.threads), quiet_transformers():
        return relearn(None), relearn(run / tuned.run.delta)


def refuse_modules(run: Path, tuned: TunedRun) -> None:
    """Stop where there are no tensors to relearn with.

    Raises:
        UserError: the run added modules, and left the base as it is.
    """
    modules = tuned.delta.manifest.modules
    if modules is not None:
        raise UserError(
            f"{run}: relearning trains the tensors that a run trained, and this one trained {modules.kind} beside the "
            "base, which is there bit for bit: what the base knew comes back by telling task 0"
        )


def _make_recipe(tuned: TunedRun, old_text: Documents, steps: int, learning_rate: float | None) -> TuneRecipe:
    recipe = TuneRecipe.model_validate(tuned.run.recipe)
    return TuneRecipe.model_validate(
        {
            **recipe.model_dump(),
            "data": old_text.source,
            "steps": steps,
            "epochs": None,
            "learning_rate": learning_rate or recipe.learning_rate,
            "schedule": "constant",
            "warmup_steps": 0,
            "save_every": 0,
            "method": None,
            "anchor": None,
            "after": None,
        }
    )


def _score(loaded: LoadedModel, corpora: Sequence[Corpus], suite: Sequence[str], window: int) -> ModelScores:
    return ModelScores(
        corpora=score_corpora(loaded, corpora, window=window, stride=window), suite=answer_suite(loaded, suite)
    )
