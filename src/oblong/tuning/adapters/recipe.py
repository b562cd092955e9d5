"""What trains in place of a Plan's tensors, as a recipe says it; read without torch."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from oblong.methods import METHODS, MethodOptions
from oblong.records.base import Part
from oblong.records.run import ModulesKind

AdapterKind = Literal["lora", "full", "lisa", "osf", "columns", "experts"]
Targets = Literal["all-linear"] | tuple[str, ...]

DEFAULT_RANK: Final = 16


class _TargetedOptions(Part):
    targets: Targets = Field(
        default="all-linear",
        description="without a plan: every linear layer of attention and MLP, or ends of paths such as q_proj",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _accept_one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value != "all-linear" else value

    @field_validator("targets")
    @classmethod
    def _refuse_nothing(cls, value: Targets) -> Targets:
        if value != "all-linear" and (not value or "" in value):
            raise ValueError("name at least one layer, such as q_proj, or leave it at all-linear")
        return value


class LoraOptions(_TargetedOptions):
    """Low-rank adapters: W x + (alpha / rank) B A x, with W frozen.

    Source: Hu et al. 2021, arXiv 2106.09685. B starts at zero, so training starts from the base.
    """

    rank: int | None = Field(default=None, gt=0, description=f"of A and B; default: {DEFAULT_RANK}, or by the budget")
    budget: str | None = Field(
        default=None, min_length=1, description="parameters, such as 10M or 5%: the rank that comes closest is taken"
    )
    alpha: float | None = Field(default=None, gt=0, description="scale, divided by the rank; default: twice the rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the adapters' input")

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if self.rank is not None and self.budget is not None:
            raise ValueError("give either rank or budget")
        return self


class FullOptions(Part):
    """Plain fine-tuning of everything."""

    embeddings: bool = Field(default=False, description="the embeddings and the output layer train as well")


class LisaOptions(Part):
    """A few whole layers train at a time, drawn anew every so many steps.

    Source: Pan et al. 2024, LISA, arXiv 2403.17919, algorithm 1.
    """

    layers: int = Field(default=2, gt=0, description="layers that train at a time")
    every: int = Field(default=20, gt=0, description="optimizer steps between draws")
    embeddings: bool = Field(
        default=True, description="embeddings, output layer and final norm train all the time; false: never"
    )


class OsfOptions(_TargetedOptions):
    """Fine-tuning of the lesser singular directions of each matrix, orthogonal to the leading ones.

    Source: Nayak et al. 2025, arXiv 2504.07097, as in PEFT's OSFConfig.
    """

    kept: float = Field(
        default=0.5, gt=0, lt=1, description="share of each matrix's singular directions, the leading ones, that stay"
    )


class ColumnsOptions(Part):
    """Progressive columns: a column for each task beside the frozen base, which reads the base and all older columns.

    Source: Rusu et al. 2016, "Progressive neural networks", with a bottleneck per layer in place of layers.
    """

    rank: int = Field(default=16, gt=0, description="width of the bottleneck of every layer of the new column")
    gate: bool | None = Field(
        default=None,
        description="where the task is not told, a gate chooses the column; false: the base answers. Default: as the "
        "run before, or true where there is an anchor, the old data that the gate knows the base by",
    )


class ExpertsOptions(_TargetedOptions):
    """Experts: low-rank updates for each task, of which one or none answers a sequence.

    Source: Aljundi, Chakravarty and Tuytelaars 2017 (gate); Rosenbaum, Klinger and Riemer 2018 (routing).
    """

    rank: int = Field(default=8, gt=0, description="of the new expert's updates")
    targets: Targets = Field(
        default=("q_proj", "v_proj"), description="ends of the names of linear layers, or all-linear"
    )
    routing: Literal["gate", "softmax", "gumbel"] = Field(
        default="gate",
        description="who chooses where the task is not told: a gate that is fitted on old data and on each task's own, "
        "or a router that trains along, mixing the experts or drawing one",
    )

    @field_validator("targets")
    @classmethod
    def _refuse_paths(cls, value: Targets) -> Targets:
        if value != "all-linear" and (not value or any(not name or "." in name for name in value)):
            raise ValueError("name at least one layer by the end of its name, such as q_proj, or give all-linear")
        return value


class AdapterRecipe(Part):
    """Exactly one of them; a bare name such as `lora` is that one with its defaults."""

    lora: LoraOptions | None = Field(default=None, description="low-rank adapters")
    full: FullOptions | None = Field(default=None, description="every tensor")
    lisa: LisaOptions | None = Field(default=None, description="layers drawn anew every few steps")
    osf: OsfOptions | None = Field(default=None, description="what is orthogonal to the leading singular directions")
    columns: ColumnsOptions | None = Field(default=None, description="a column for each task, beside the base")
    experts: ExpertsOptions | None = Field(default=None, description="low-rank updates for each task, one chosen")

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in cls.model_fields:
                raise ValueError(f"no adapter is called {value!r}; there are {', '.join(cls.model_fields)}")
            return {value: {}}
        if isinstance(value, dict):  # `lora:` with nothing behind it
            return {name: {} if part is None and len(value) == 1 else part for name, part in value.items()}
        return value

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}, such as {{lora: {{rank: 16}}}}"
            )
        return self

    @property
    def kind(self) -> AdapterKind:
        """Which of them it is."""
        kinds: dict[AdapterKind, Part | None] = {
            "lora": self.lora,
            "full": self.full,
            "lisa": self.lisa,
            "osf": self.osf,
            "columns": self.columns,
            "experts": self.experts,
        }
        return next(kind for kind, part in kinds.items() if part is not None)

    @property
    def added_kind(self) -> ModulesKind:
        """Which modules it adds.

        Raises:
            ValueError: it adds none.
        """
        if not self.adds_modules:
            raise ValueError(f"adapter {self.kind} adds no modules")
        return "experts" if self.columns is None else "columns"

    @property
    def adds_modules(self) -> bool:
        """Whether what trains stays beside the base, none of whose tensors changes."""
        return (self.columns or self.experts) is not None

    @property
    def needs_gate(self) -> bool:
        """Whether it cannot do without a gate."""
        if self.experts is not None:
            return self.experts.routing == "gate"
        return self.columns is not None and self.columns.gate is True

    @property
    def can_use_gate(self) -> bool:
        """Whether it has a gate where there is old data to fit one on."""
        return self.needs_gate or (self.columns is not None and self.columns.gate is None)

    def spend(self, budget: str) -> AdapterRecipe:
        """The same, with LoRA's rank by a budget where neither rank nor budget was given."""
        lora = self.lora
        if lora is None or lora.rank is not None or lora.budget is not None:
            return self
        return AdapterRecipe(lora=lora.model_copy(update={"budget": budget}))


def explain_conflict(adapter: AdapterRecipe | None, method: MethodOptions | None) -> str | None:
    """Why a method does not go with an adapter; None if it does.

    A penalty or projection on weights is defined for the model's own weights that train all the time. Adapters train
    other numbers, LISA each weight some of the time: there, only what acts on batches and losses means what it says.
    """
    if adapter is None or adapter.full is not None or method is None or METHODS[method.name].on_outputs:
        return None
    fitting = ", ".join(name for name, spec in METHODS.items() if spec.on_outputs)
    return (
        f"method {method.name} works on the model's weights or their gradients, which is not defined for the adapter "
        f"{adapter.kind}: take one of {fitting}, or train whole tensors (a plan, or adapter: full)"
    )


def explain_missing_gate(adapter: AdapterRecipe | None, *, has_anchor: bool, goes_on: bool) -> str | None:
    """Why an adapter cannot do without the old data that is not given; None if it can.

    Args:
        adapter: which, if any.
        has_anchor: there is old data.
        goes_on: an earlier run had a gate fitted already, or is asked for one as it is read.
    """
    if adapter is None or has_anchor or goes_on or not adapter.needs_gate:
        return None
    without = "routing: softmax or gumbel" if adapter.experts is not None else "gate: false"
    return (
        f"adapter {adapter.kind}: its gate must know the base by old data: give anchor, for example `anchor: "
        f"self_generated`, or {without}"
    )
