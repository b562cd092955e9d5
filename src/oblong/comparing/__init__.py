"""The experiment matrix: arms x seeds, each tuned and measured alike, into one Comparison."""

from oblong.comparing.compare import compare
from oblong.comparing.recipe import ArmRule, CompareRecipe
from oblong.comparing.texts import EvaluationCorpus

__all__ = ["ArmRule", "CompareRecipe", "EvaluationCorpus", "compare"]
