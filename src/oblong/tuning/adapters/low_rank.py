"""LoRA on the tensors of a Plan."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors.torch import save_file

from oblong.errors import SelectionError
from oblong.models.stored_tensors import StoredTensors
from oblong.planning.budgets import parse_budget
from oblong.records import Plan
from oblong.tuning.adapters.folding import AdaptedLayers
from oblong.tuning.adapters.lora import (
    choose_rank,
    import_peft,
    inject_lora,
    iterate_lora_layers,
)
from oblong.tuning.adapters.recipe import DEFAULT_RANK, LoraOptions
from oblong.tuning.apply import AppliedPlan

# PEFT's names for what `save_pretrained` writes.
WEIGHTS_FILE: Final = "adapter_model.safetensors"
PREFIX: Final = "base_model.model."


class LowRankAdapters(AdaptedLayers):
    """W x + (alpha / rank) B A x for every matrix W of a Plan; A and B train in float32.

    Args:
        frozen: the model with its Plan, nothing of it training; adapters are put in, in place.
        options: of LoRA.
        stored: the model's file.
        base_name: of the base, as the user calls it.
        seed: of the A matrices.

    Raises:
        PlanMismatchError: a tensor of the Plan is not the weight of a linear layer.
        SelectionError: a budget that cannot be read.
        MissingExtraError: PEFT is not installed.
    """

    def __init__(
        self, frozen: AppliedPlan, options: LoraOptions, *, stored: StoredTensors, base_name: str, seed: int
    ) -> None:
        super().__init__(frozen, stored, feature="LoRA")
        self._options = options
        self._base_name = base_name
        self.rank = resolve_rank(options, frozen.plan, stored)
        self.alpha = 2.0 * self.rank if options.alpha is None else options.alpha
        matrices = inject_lora(
            frozen.model,
            list(self._paths.values()),
            rank=self.rank,
            alpha=self.alpha,
            dropout=options.dropout,
            seed=seed,
        )
        self.applied = self._adapt(dict(iterate_lora_layers(frozen.model)), matrices)

    def describe(self) -> str:
        """Rank, alpha and where."""
        chosen = f" (closest to {self._options.budget})" if self._options.budget is not None else ""
        dropout = f", dropout {self._options.dropout:g}" if self._options.dropout else ""
        return (
            f"LoRA, rank {self.rank}{chosen}, alpha {self.alpha:g}{dropout}, on {len(self._paths)} linear layers: "
            f"{self.applied.num_trainable:,} parameters"
        )

    def save(self, directory: Path) -> None:
        """Write the adapters as PEFT does, for `PeftModel.from_pretrained` and servers that load LoRA."""
        peft = import_peft("LoRA")
        directory.mkdir(parents=True, exist_ok=True)
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self._options.dropout,
            target_modules=list(self._paths.values()),
            task_type="CAUSAL_LM",
            inference_mode=True,
            base_model_name_or_path=self._base_name,
        )
        config.save_pretrained(directory)
        matrices = self.applied.trained.items()
        save_file({f"{PREFIX}{name}": value.detach().cpu() for name, value in matrices}, directory / WEIGHTS_FILE)


def resolve_rank(options: LoraOptions, plan: Plan, stored: StoredTensors) -> int:
    """The rank as given, or that whose adapters come closest to the budget.

    Raises:
        SelectionError: a budget that cannot be read, or that counts tensors.
    """
    if options.budget is None:
        return options.rank or DEFAULT_RANK
    num_parameters = sum(t.num_parameters for t in stored.checkpoint.tensors if t.companion_of is None)
    budget = parse_budget(options.budget, num_parameters=num_parameters)
    if budget.unit != "parameters":
        raise SelectionError(
            f"lora: the budget {options.budget!r} counts tensors, which says nothing about a rank: give parameters, "
            "such as 10M or 5%, or a rank"
        )
    return choose_rank(budget.amount, [tensor.shape for tensor in plan.tensors])
