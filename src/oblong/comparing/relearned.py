"""A few steps on old text after a run, from the tuned model and from the base."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from oblong.checkpoints.delta import MANIFEST_FILE
from oblong.comparing.jobs import Job, LossChanges
from oblong.comparing.texts import RelearnRule
from oblong.errors import NonFinitePredictionError
from oblong.evaluation.evaluate import Corpus, score_corpora
from oblong.records import DeltaManifest, RelearnedScores, RelearningProbe, Run, RunStatus
from oblong.tuning.data import read_training_text
from oblong.tuning.relearning import relearn_both


def has_modules(job: Job, run: Run) -> bool:
    """Whether a run trained modules beside the base."""
    return DeltaManifest.read(job.run_folder / run.delta / MANIFEST_FILE).modules is not None


def relearn(job: Job, rule: RelearnRule, corpora: Sequence[Corpus], changes: LossChanges) -> None:
    """Train the run's tensors on old text, from the tuned model and from the base, and write what both score then.

    What they scored before is in the job's and the base's Evaluation.

    Nothing is written for a run that diverged, or one of whose models then predicts NaN or infinity, or that trained
    modules beside the base: it has no tensors to relearn with, and the base is there bit for bit.
    """
    run = job.read_run()
    if job.relearning_file.exists() or run.status is RunStatus.DIVERGED or has_modules(job, run):
        return
    job.report("relearning", 0, 1, changes=changes)
    old_text = read_training_text(rule.data)
    measured = [corpus for corpus in corpora if corpus.documents.name in (rule.texts or ())]
    measure = partial(score_corpora, corpora=measured, window=job.window, stride=job.stride)
    try:
        base, tuned = relearn_both(
            job.run_folder, old_text, measure, steps=rule.steps, learning_rate=rule.learning_rate
        )
    except NonFinitePredictionError:
        return
    probe = RelearningProbe(
        steps=rule.steps,
        learning_rate=rule.learning_rate or run.recipe["learning_rate"],
        data=old_text.describe(),
        texts={name: RelearnedScores(base=base[name], tuned=tuned[name]) for name in base},
    )
    scratch = job.relearning_file.with_suffix(".tmp")
    scratch.write_text(probe.model_dump_json(indent=1), encoding="utf-8")
    scratch.replace(job.relearning_file)
