"""The experiment matrix: arms x seeds, each tuned and measured alike, into one Comparison."""

from oblong.comparing.arms import ArmRule
from oblong.comparing.compare import compare
from oblong.comparing.recipe import CompareRecipe
from oblong.comparing.texts import EvaluationCorpus

__all__ = ["ArmRule", "CompareRecipe", "EvaluationCorpus", "compare"]
