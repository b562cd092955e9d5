"""The states of a run that are evaluated: on the way, at its end, and what makes a run hopeless."""

from __future__ import annotations

import time

from oblong.comparing.evaluating import describe_scores
from oblong.comparing.jobs import Job, LossChanges
from oblong.errors import NonFinitePredictionError
from oblong.evaluation.evaluate import Corpus, load_on_device, score_corpora
from oblong.models.causal_lm import LoadedModel
from oblong.records import EvaluatedState, Evaluation


class StateEvaluator:
    """Evaluates the model of a job while it trains; what is there already is not evaluated again.

    Attributes:
        changes: of the last evaluated state, for whoever watches; None so far.
    """

    def __init__(self, job: Job, corpora: list[Corpus]) -> None:
        self._job = job
        self._corpora = corpora
        self._base = Evaluation.read(job.base_evaluation_file)
        # Loaded before the training is seeded, so that looking changes nothing of it.
        self._base_model = load_on_device(job.model, dtype=job.dtype).model if job.state_divergence else None
        self.changes: LossChanges | None = None

    def look(self, step: int, loaded: LoadedModel) -> str | None:
        """Evaluate a state and write it down; returns why the run should end here, if it should."""
        file = self._job.state_file(step)
        if not file.exists():
            try:
                evaluation = self._evaluate(loaded)
            except NonFinitePredictionError as error:
                return f"after step {step}: {error}"
            evaluation.write(file, force=True)
        state = EvaluatedState(step=step, evaluation=Evaluation.read(file))
        self.changes = measure_changes(state, self._base)
        return explain_hopeless(self.changes, self._job.hopeless_margin)

    def _evaluate(self, loaded: LoadedModel) -> Evaluation:
        started = time.perf_counter()
        job = self._job
        scores = score_corpora(loaded, self._corpora, window=job.window, stride=job.stride, base_model=self._base_model)
        return describe_scores(job, job.arm, scores, started=started)


def measure_changes(state: EvaluatedState, base: Evaluation) -> LossChanges:
    """Loss of a state minus that of the base; every text of a kind counts the same."""
    changes: dict[bool, list[float]] = {True: [], False: []}
    for name, corpus in state.evaluation.corpora.items():
        changes[corpus.new_domain].append(corpus.loss - base.corpora[name].loss)
    learned, kept = changes[True], changes[False]
    return LossChanges(
        step=state.step,
        new_domain=sum(learned) / len(learned),
        retention=sum(kept) / len(kept) if kept else None,
    )


def explain_hopeless(changes: LossChanges, margin: float | None) -> str | None:
    """Why a run is not worth going on with; None if it is, or if there is no margin."""
    if margin is None or changes.new_domain <= margin:
        return None
    return (
        f"after step {changes.step} its new-domain loss was {changes.new_domain:.3f} nats per token above the base's, "
        f"more than the {margin:g} allowed"
    )


def find_last_finite(job: Job) -> EvaluatedState:
    """The last evaluated state of a run whose final predictions are not finite; at worst the base."""
    states = job.read_states()
    if states:
        return states[-1]
    base = Evaluation.read(job.base_evaluation_file)
    return EvaluatedState(step=0, evaluation=base.model_copy(update={"name": job.arm}))
