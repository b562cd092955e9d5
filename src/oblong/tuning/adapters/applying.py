"""A recipe's choice of what trains, applied to a model."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from oblong.checkpoints.locate import locate_model
from oblong.errors import PlanMismatchError
from oblong.models.stored_tensors import StoredTensors, open_stored_tensors
from oblong.records import Plan
from oblong.tuning.adapters.beside import BesideTheBase
from oblong.tuning.adapters.low_rank import LowRankAdapters
from oblong.tuning.adapters.orthogonal_subspace import OrthogonalSubspace
from oblong.tuning.adapters.planning import plan_adapter
from oblong.tuning.adapters.protocol import Adapter, WholeTensors
from oblong.tuning.adapters.sampled_layers import SampledLayers
from oblong.tuning.apply import apply_plan, freeze_to_plan, freeze_whole
from oblong.tuning.recipe import TuneRecipe


def obtain_plan(recipe: TuneRecipe) -> Plan:
    """The Plan that a recipe names, or that of its adapter.

    Raises:
        RecordError, ModelNotFoundError, UnsupportedFormatError, SelectionError: there is none.
        PlanMismatchError: the adapter trains no tensor, and the Plan names some.
    """
    if recipe.plan is not None:
        plan = Plan.read(Path(recipe.plan))
        if plan.tensors and recipe.adapter is not None and recipe.adapter.adds_modules:
            raise PlanMismatchError(
                f"adapter {recipe.adapter.kind} trains modules beside the base, and no tensor of it: leave the plan out"
            )
        return plan
    if recipe.adapter is None:
        raise ValueError("a recipe has a plan or an adapter")
    stored = open_stored_tensors(locate_model(recipe.model))
    stored.refuse_quantised()
    return plan_adapter(recipe.adapter, stored, model=recipe.model)


def apply_recipe(
    model: PreTrainedModel, plan: Plan, recipe: TuneRecipe, *, stored: StoredTensors, task: str = "task"
) -> Adapter:
    """Freeze a model but for what a recipe lets train.

    Args:
        model: the base; changed in place.
        plan: whose tensors may change.
        recipe: with or without an adapter.
        stored: the model's file.
        task: name of what is going to be learned, for modules that have parts for tasks.

    Raises:
        PlanMismatchError: the Plan does not fit the model, or the adapter not the Plan.
        SelectionError: a budget that cannot be read, or a model without layers for added modules.
        UserError: the modules of an earlier run are of another sort.
        MissingExtraError: PEFT is not installed and the adapter needs it.
    """
    adapter = recipe.adapter
    other = recipe.allow_other_weights
    if adapter is not None and adapter.lora is not None:
        frozen = freeze_to_plan(model, plan, stored=stored, allow_other_weights=other)
        return LowRankAdapters(frozen, adapter.lora, stored=stored, base_name=recipe.model, seed=recipe.seed)
    if adapter is not None and adapter.osf is not None:
        frozen = freeze_to_plan(model, plan, stored=stored, allow_other_weights=other)
        return OrthogonalSubspace(frozen, adapter.osf, stored=stored)
    if adapter is not None and adapter.adds_modules:
        frozen = freeze_whole(model, plan, {})
        has_anchor = recipe.anchor is not None
        return BesideTheBase(frozen, adapter, stored=stored, task=task, has_anchor=has_anchor, seed=recipe.seed)
    applied = apply_plan(model, plan, stored=stored, allow_other_weights=other)
    if adapter is not None and adapter.lisa is not None:
        return SampledLayers(applied, adapter.lisa, stored=stored, seed=recipe.seed)
    return WholeTensors(applied, stored)
