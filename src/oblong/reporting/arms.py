"""What tables and figures with one row or line per arm show of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from oblong.records import ArmRun, Comparison, TrainingPoint

PLAIN: Final = "plain"  # the method that changes nothing
SEEDS_THAT_SHOW_VARIATION: Final = 3  # from here on the intervals count the spread between seeds too
DATA_FREE_NOTE: Final = "Data-free: no old data is used but what the model itself generates."


def rate_of(comparison: Comparison, arm: str) -> float | None:
    """The learning rate that an arm's changes stand for; None in records without a sweep."""
    return next((change.learning_rate for change in comparison.changes if change.arm == arm), None)


def runs_of(comparison: Comparison, arm: str) -> tuple[ArmRun, ...]:
    """The runs of one arm, one per seed; of a sweep, those at the learning rate that its changes stand for."""
    rate = rate_of(comparison, arm)
    return tuple(run for run in comparison.runs if run.arm == arm and (rate is None or run.learning_rate == rate))


def iter_history(run: ArmRun) -> Iterator[TrainingPoint]:
    """The logged steps of a run; in a sequence, those of all its tasks, counted on from one to the next."""
    done = 0
    for training in run.runs:
        for point in training.history:
            yield point.model_copy(update={"step": done + point.step})
        done += training.num_steps


def num_seeds(comparison: Comparison) -> int:
    """Seeds of the arm that has fewest."""
    return min(len(runs_of(comparison, arm)) for arm in comparison.arms)


def is_data_free(comparison: Comparison, arm: str) -> bool | None:
    """Whether an arm uses no old data but what the base itself generates; None where the record does not say.

    An older record says so where its training recipes ask for no old data at all.
    """
    if arm in comparison.data_free:
        return comparison.data_free[arm]
    asked = any(run.run.recipe.get("anchor") for run in comparison.runs if run.arm == arm)
    return None if asked else True


def family_of(comparison: Comparison, arm: str) -> str:
    """What related arms share: the method against forgetting, else the adapter, else the criterion of the Plan."""
    recipe = next(run.run.recipe for run in comparison.runs if run.arm == arm)
    method = _name_of(recipe.get("method"))
    if method and method != PLAIN:
        return method
    adapter = _name_of(recipe.get("adapter"))
    return adapter or comparison.plans[arm].rule.criterion


def _name_of(option: Any) -> str:
    """The name of a recipe's option: `ewc`, `{name: ewc, ...}` or `{lora: ...}`."""
    if isinstance(option, Mapping):
        return str(option.get("name") or next((name for name, value in option.items() if value), ""))
    return str(option or "")
