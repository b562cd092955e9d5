"""What trains in place of a Plan's tensors: LoRA, all of the model, layers drawn anew (LISA), lesser subspaces (OSF).

An adapter ends as weights of the base's own tensors, so that a delta checkpoint, `evaluate`, `merge` and `verify` need
to know nothing of it. Recipes are read without torch. See design/061-adapters.md.
"""

from oblong.tuning.adapters.recipe import AdapterKind, AdapterRecipe, explain_conflict

__all__ = ["AdapterKind", "AdapterRecipe", "explain_conflict"]
