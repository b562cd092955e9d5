"""Checkpoint names and module names: which parameter of a built model a tensor of its file became.

For most Hugging Face models the two are the same. They differ by the base model's prefix (`model.layers.0...` against
`layers.0...`) where a file was saved without its head, by what transformers renames as it loads (Mixtral's
`block_sparse_moe.gate` became `mlp.gate` in version 5), and two names may be one parameter (tied embeddings). What
transformers fuses as it loads, the experts of a mixture, has no parameter of its own: it is a part of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def match_parameters(model: PreTrainedModel, names: Iterable[str]) -> Mapping[str, torch.nn.Parameter]:
    """Find the parameter behind each checkpoint name.

    Args:
        model: a built model.
        names: tensor names as the checkpoint has them.

    Returns:
        Parameters by checkpoint name; a name that is no parameter (a buffer, a part of a fused parameter, or nothing
        at all) is absent. Names of tied tensors lead to the same parameter object.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    loading: LoadingRules | None = None
    matches = {}
    for name in names:
        found = _find_direct(name, model.base_model_prefix, known)
        if found is None:
            loading = loading or LoadingRules.read(model)
            found = loading.rename(name, known).target
        if found is not None:
            matches[name] = known[found]
    return matches


def find_fused_parameter(model: PreTrainedModel, name: str) -> str | None:
    """The name of the parameter that transformers makes of this tensor and others as it loads; None if it does not."""
    return LoadingRules.read(model).rename(name, dict(model.named_parameters(remove_duplicate=False))).fused


def _find_direct(name: str, base_prefix: str, known: Mapping[str, torch.nn.Parameter]) -> str | None:
    prefix = f"{base_prefix}." if base_prefix else ""
    candidates = (name, f"{prefix}{name}", name.removeprefix(prefix))
    return next((candidate for candidate in candidates if candidate in known), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """Where a tensor goes as it is loaded: a parameter of its own, or a part of a fused one, or neither."""

    target: str | None = None
    fused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingRules:
    """What transformers does to checkpoint names when it loads a model of one class."""

    renamings: list[WeightRenaming]
    converters: list[WeightConverter]
    base_prefix: str

    @classmethod
    def read(cls, model: PreTrainedModel) -> Self:
        """The rules for a model."""
        rules: list[Any] = get_model_conversion_mapping(model)
        return cls(
            renamings=[rule for rule in rules if isinstance(rule, WeightRenaming)],
            converters=[rule for rule in rules if isinstance(rule, WeightConverter)],
            base_prefix=model.base_model_prefix,
        )

    def rename(self, name: str, known: Mapping[str, torch.nn.Parameter]) -> Renamed:
        """Follow a checkpoint name.

        A renamed tensor is the parameter, value for value. One that a converter takes is reshaped, or merged with
        others; the parameter that it goes into is named, but it is not that parameter.
        """
        rename: Any = rename_source_key
        new_name, converter = rename(name, self.renamings, self.converters, self.base_prefix, known)
        if new_name not in known:
            return Renamed()
        return Renamed(target=new_name) if converter is None else Renamed(fused=new_name)
