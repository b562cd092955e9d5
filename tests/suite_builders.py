"""Small question sets and tiny models that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oblong.corpora.questions import Question
from oblong.models.causal_lm import LoadedModel, load_causal_lm
from oblong.records import TaskScore
from tests.tuning_builders import save_tiny_llama

QUESTIONS = (
    Question(context="one two three", choices=(" four", " apple tree", " five"), answer=0),
    Question(context="a", choices=(" b", " c"), answer=1),
    Question(context="the quick brown", choices=("\n    fox", " dog", " cat", " hen"), answer=0),
)


def load_tiny(folder: Path, *, seed: int = 0) -> LoadedModel:
    """A random byte-level Llama in float32 whose context holds every bundled question."""
    return load_causal_lm(str(save_tiny_llama(folder, seed=seed, max_position_embeddings=512)), dtype="float32")


def make_task_score(right: Sequence[int], *, digest: str = "sha256:0", metric: str = "acc") -> TaskScore:
    """A task's score from ones and zeros."""
    return TaskScore(metric=metric, digest=digest, chance=0.25, right=tuple(map(bool, right)))
