"""Evaluation: how well a model predicts held-out text, how far it moved, and what a difference is worth."""

from oblong.evaluation.curves import Curve, Texts, list_points
from oblong.evaluation.drift import compute_drift
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.evaluation.fronts import compute_hypervolume, find_front
from oblong.evaluation.matched_gain import compare_all_at_gain, compare_at_gain, find_common_gain, measure_at_gain
from oblong.evaluation.multiplicity import adjust_holm
from oblong.evaluation.noise_floor import measure_noise_floor
from oblong.evaluation.perplexity import score_corpus
from oblong.evaluation.prompt_divergence import score_prompts
from oblong.evaluation.statistics import (
    bootstrap_accuracy_change,
    bootstrap_difference,
    bootstrap_divergence,
    bootstrap_loss,
    bootstrap_ratio,
)
from oblong.evaluation.suite import answer_suite
from oblong.evaluation.task_changes import compute_task_changes, compute_wilson
from oblong.evaluation.task_sequences import summarise_sequence
from oblong.evaluation.transitions import compute_mcnemar, count_transitions
from oblong.evaluation.wer import score_transcripts, score_utterance, summarise_errors
from oblong.records import ReferencePoint

__all__ = [
    "Corpus",
    "Curve",
    "ReferencePoint",
    "Texts",
    "adjust_holm",
    "answer_suite",
    "bootstrap_accuracy_change",
    "bootstrap_difference",
    "bootstrap_divergence",
    "bootstrap_loss",
    "bootstrap_ratio",
    "compare_all_at_gain",
    "compare_at_gain",
    "compute_drift",
    "compute_hypervolume",
    "compute_mcnemar",
    "compute_task_changes",
    "compute_wilson",
    "count_transitions",
    "evaluate",
    "find_common_gain",
    "find_front",
    "list_points",
    "measure_at_gain",
    "measure_noise_floor",
    "score_corpus",
    "score_prompts",
    "score_transcripts",
    "score_utterance",
    "summarise_errors",
    "summarise_sequence",
]
