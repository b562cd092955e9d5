"""Tuning: a Plan, a model and text become a Run and a delta checkpoint.

Import `tune`, `verify_run` and `merge_run` from their modules: they need torch, which recipes do not.
"""

from oblong.tuning.recipe import DataRecipe, TuneRecipe, build_recipe, read_recipe

__all__ = ["DataRecipe", "TuneRecipe", "build_recipe", "read_recipe"]
