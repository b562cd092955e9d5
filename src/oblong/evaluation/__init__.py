"""Evaluation: how well a model predicts held-out text, how far it moved, and what a difference is worth."""

from oblong.evaluation.drift import compute_drift
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.evaluation.perplexity import score_corpus
from oblong.evaluation.statistics import bootstrap_difference, bootstrap_loss, bootstrap_ratio
from oblong.evaluation.wer import score_transcripts, score_utterance, summarise_errors

__all__ = [
    "Corpus",
    "bootstrap_difference",
    "bootstrap_loss",
    "bootstrap_ratio",
    "compute_drift",
    "evaluate",
    "score_corpus",
    "score_transcripts",
    "score_utterance",
    "summarise_errors",
]
