from __future__ import annotations

import pytest

from oblong.errors import SelectionError
from oblong.planning import parse_budget


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("100", "tensors", 100),
        (" 7 ", "tensors", 7),
        ("1_000", "tensors", 1000),
        ("10M", "parameters", 10_000_000),
        ("2.5k", "parameters", 2_500),
        ("2.5K", "parameters", 2_500),
        ("1_000_000p", "parameters", 1_000_000),
        ("3Mp", "parameters", 3_000_000),
        ("1.5B", "parameters", 1_500_000_000),
        ("0.3333k", "parameters", 333),  # 333.3, cut off: never exceeded
        ("5%", "parameters", 6_725),  # 5 % of 134,515 = 6,725.75
        ("100%", "parameters", 134_515),
        ("0.1%", "parameters", 134),
    ],
)
def test_reads_every_form(text: str, unit: str, amount: int) -> None:
    budget = parse_budget(text, num_parameters=134_515)
    assert (budget.unit, budget.amount, budget.text) == (unit, amount, text.strip())


@pytest.mark.parametrize(
    "text", ["", "many", "-5", "1e6", "5 tensors", "10M%", "nan%", "0x10", "1.2.3", "_1", "9" * 5000, "%", "M"]
)
def test_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(SelectionError, match="cannot read the budget"):
        parse_budget(text, num_parameters=1000)


@pytest.mark.parametrize("text", ["0", "0M", "0%", "0.4p", "0.01%"])
def test_refuses_a_budget_of_nothing(text: str) -> None:
    with pytest.raises(SelectionError, match="comes to zero"):
        parse_budget(text, num_parameters=1000)


def test_refuses_a_fraction_of_a_tensor() -> None:
    with pytest.raises(SelectionError, match="not a whole number of tensors"):
        parse_budget("2.5", num_parameters=1000)


def test_refuses_more_than_the_whole_model() -> None:
    with pytest.raises(SelectionError, match="more than the whole model"):
        parse_budget("100.1%", num_parameters=1000)
