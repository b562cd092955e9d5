"""How much may train: `100` tensors, `10M` parameters, `5%` of the model's parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from oblong.errors import SelectionError
from oblong.records import Budget

FORMS: Final = "`100` (tensors), `10M`, `2.5k`, `1_000_000p` (parameters) or `5%` (of all the model's parameters)"
SCALES: Final[Mapping[str, int]] = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
MAX_LENGTH: Final = 40  # a longer number is a slip, and Python refuses to parse thousands of digits
PATTERN: Final = re.compile(r"(?P<number>\d[\d_]*(\.\d+)?)\s*(?P<scale>[kmgb]?)(?P<unit>[p%]?)", re.IGNORECASE)


def parse_budget(text: str, *, num_parameters: int) -> Budget:
    """Turn a budget as typed into a number of tensors or parameters.

    A plain whole number counts tensors; a scale (k, M, G or B) or a `p` counts parameters; `%` is a share of all the
    model's parameters, eligible or not. Fractions of a parameter are cut off: a budget is never exceeded.

    Args:
        text: as typed.
        num_parameters: parameters of the whole model.

    Raises:
        SelectionError: not one of the forms, zero, or more than 100 %.
    """
    match = PATTERN.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
    if match is None or (match["scale"] and match["unit"] == "%"):
        raise SelectionError(f"cannot read the budget {text[:MAX_LENGTH]!r}: write {FORMS}")
    number = Decimal(match["number"].replace("_", "")) * SCALES[match["scale"].lower()]
    unit = "parameters" if match["scale"] or match["unit"] else "tensors"
    if match["unit"] == "%":
        number = _resolve_share(text, number, num_parameters)
    if unit == "tensors" and number != int(number):
        raise SelectionError(f"the budget {text!r} is not a whole number of tensors: write {FORMS}")
    if int(number) == 0:
        raise SelectionError(f"the budget {text!r} comes to zero {unit}; nothing could train: write {FORMS}")
    return Budget(text=text.strip(), unit=unit, amount=int(number))


def budget_of_parameters(amount: int) -> Budget:
    """A budget of exactly so many parameters, in the form that `parse_budget` reads."""
    return Budget(text=f"{amount}p", unit="parameters", amount=amount)


def _resolve_share(text: str, percent: Decimal, num_parameters: int) -> Decimal:
    if percent > 100:
        raise SelectionError(f"the budget {text!r} is more than the whole model")
    return percent * num_parameters / 100
