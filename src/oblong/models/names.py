"""Checkpoint names and module names: which parameter of a built model a tensor of its file became.

For most Hugging Face models the two are the same. They differ by the base model's prefix (`model.layers.0...` against
`layers.0...`) where a file was saved without its head, and two names may be one parameter (tied embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from transformers import PreTrainedModel


def match_parameters(model: PreTrainedModel, names: Iterable[str]) -> Mapping[str, torch.nn.Parameter]:
    """Find the parameter behind each checkpoint name.

    Args:
        model: a built model.
        names: tensor names as the checkpoint has them.

    Returns:
        Parameters by checkpoint name; a name that is no parameter (a buffer, or nothing at all) is absent. Names of
        tied tensors lead to the same parameter object.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    matches = {}
    for name in names:
        candidates = (name, f"{prefix}{name}", name.removeprefix(prefix))
        found = next((candidate for candidate in candidates if candidate in known), None)
        if found is not None:
            matches[name] = known[found]
    return matches
