from __future__ import annotations

import io

import pytest
from rich.console import Console

from oblong.records import Comparison, Reach
from oblong.reporting.arms import family_of, is_data_free, runs_of
from oblong.reporting.comparison_tables import cost_rows, outcome_caption
from oblong.reporting.gain_tables import (
    Edge,
    gain_caption,
    gain_cells,
    gain_sections,
    render_gains,
)
from oblong.reporting.page_rows import gain_bars
from tests.report_builders import CONTROL, make_comparison, make_demo_comparison
from tests.sweep_builders import DEMO_ARMS, GAIN, HALF_WIDTH, SweptArm, make_sweep
from tests.tolerances import REPORT_ARITHMETIC


def test_arms_stand_by_rising_forgetting_and_those_that_do_not_get_there_last() -> None:
    pooled, english, _ = gain_sections(make_sweep())
    assert [row.arm for row in pooled.rows] == [
        "kappa-lowest-within-role",
        "ewc",
        CONTROL,
        "kappa-highest",
        "kappa-lowest",
        "lora",
        "freeze-bottom",
    ]
    assert (pooled.corpora, english.corpora) == (("english prose", "python code"), ("english prose",))


def test_a_row_carries_what_the_record_says() -> None:
    row = gain_sections(make_sweep())[1].rows[0]
    cost, control = DEMO_ARMS[row.arm].cost, DEMO_ARMS[CONTROL].cost
    assert row.forgetting is not None
    assert row.difference is not None
    assert row.forgetting.mean == pytest.approx(cost * GAIN**2, rel=REPORT_ARITHMETIC)
    assert row.difference.low == pytest.approx((cost - control) * GAIN**2 - HALF_WIDTH, rel=REPORT_ARITHMETIC)
    assert gain_cells(row) == (
        "kappa-lowest-within-role",
        "yes",
        "10.5 M",
        "2e-04",
        "+0.0117 [+0.0057, +0.0177]",
        "-0.0143 [-0.0203, -0.0083]",
        "< 0.0001",
        "forgets less",
        "0.0427",
    )


def test_verdicts_follow_the_adjusted_p_value_and_the_reach() -> None:
    verdicts = {row.arm: gain_cells(row)[-2] for row in gain_sections(make_sweep())[0].rows}
    assert verdicts == {
        "kappa-lowest-within-role": "forgets less",
        "ewc": "not significant",
        CONTROL: "control",
        "kappa-highest": "forgets more",
        "kappa-lowest": "forgets more",
        "lora": "unsure",
        "freeze-bottom": "not reached",
    }


def test_an_interval_that_excludes_zero_is_no_verdict_where_the_p_value_says_no() -> None:
    arms = {"A": SweptArm(cost=0.01, p_value=0.07), CONTROL: SweptArm(cost=0.2)}
    row = gain_sections(make_sweep(arms))[0].rows[0]
    assert row.difference is not None
    assert row.difference.excludes_zero
    assert gain_cells(row)[-2] == "not significant"


def test_a_difference_without_a_value_is_not_comparable() -> None:
    comparison = make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=0.2, reach=Reach.UNSURE)})
    (first, *others) = comparison.retention
    unsure = first.arms[1].at_gain
    arms = (first.arms[0].model_copy(update={"against_control": unsure}), first.arms[1])
    comparison = comparison.model_copy(update={"retention": (first.model_copy(update={"arms": arms}), *others)})
    assert gain_cells(gain_sections(comparison)[0].rows[0])[-2] == "not comparable"


def test_the_edge_of_the_sweep_is_marked_and_explained() -> None:
    comparison = make_sweep()
    section = gain_sections(comparison)[0]
    edges = {row.arm: row.edge for row in section.rows}
    assert edges["ewc"] is Edge.LOWEST
    assert edges["kappa-highest"] is Edge.HIGHEST
    assert edges[CONTROL] is Edge.INSIDE
    rates = {row.arm: gain_cells(row)[3] for row in section.rows}
    assert (rates["ewc"], rates["kappa-highest"], rates["lora"]) == ("5e-05 ↓", "8e-04 ↑", "-")
    assert "Arrows:" in gain_caption(comparison, [section])
    inside = make_sweep({CONTROL: SweptArm(cost=0.2)})
    assert "Arrows:" not in gain_caption(inside, gain_sections(inside)[:1])


def test_a_single_rate_has_no_edge() -> None:
    comparison = make_sweep({CONTROL: SweptArm(cost=0.2)}, rates={"2e-04": 2e-4})
    assert gain_sections(comparison)[0].rows[0].edge is Edge.INSIDE


def test_a_control_that_learned_nothing_leaves_the_areas() -> None:
    comparison = make_sweep(gain=None)
    section = gain_sections(comparison)[0]
    assert {gain_cells(row)[-2] for row in section.rows} == {"no common gain"}
    assert "learned nothing" in gain_caption(comparison, [section])


def test_the_page_says_once_what_its_sections_share() -> None:
    comparison = make_sweep()
    caption = gain_caption(comparison, gain_sections(comparison))
    assert caption.count("has learned 0.3600 nats per token") == 1


def test_no_sweep_no_table() -> None:
    assert gain_sections(make_demo_comparison()) == ()
    assert render_gains(make_demo_comparison()) == []


@pytest.mark.parametrize("width", [80, 120, 160])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    text = print_gains(make_sweep(), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for shown in ("kappa-lowest-within-role", "[+0.0027, +0.0147]", "[-0.0167, -0.0047]", "< 0.0001", "not reached"):
        assert shown in text
    assert ("forgets less" in text and "trained" in text and "volume" in text) == (width > 80)


def print_gains(comparison: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in render_gains(comparison, width=width):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_bars_of_a_section_share_a_scale_and_the_unreached_have_none() -> None:
    section = gain_sections(make_sweep())[0]
    bars = gain_bars(section)
    assert [bar is None for bar in bars] == [False] * 5 + [True] * 2
    highest = bars[4]
    assert highest is not None
    assert highest.high == pytest.approx(100, rel=REPORT_ARITHMETIC)


class TestArms:
    def test_data_free_is_what_the_record_says(self) -> None:
        comparison = make_sweep()
        assert (is_data_free(comparison, "ewc"), is_data_free(comparison, "lora")) == (False, True)

    def test_an_older_record_is_data_free_where_no_old_data_was_asked_for(self) -> None:
        comparison = make_demo_comparison()
        asked = tuple(
            run.model_copy(update={"run": run.run.model_copy(update={"recipe": {"anchor": {"sources": ["x"]}}})})
            for run in comparison.runs
        )
        assert is_data_free(comparison, CONTROL) is True
        assert is_data_free(comparison.model_copy(update={"runs": asked}), CONTROL) is None

    def test_runs_are_those_of_the_rate_that_the_changes_stand_for(self) -> None:
        comparison = make_sweep(seeds=(0, 1, 2))
        assert len([run for run in comparison.runs if run.arm == CONTROL]) == 9
        assert [(run.seed, run.learning_rate) for run in runs_of(comparison, CONTROL)] == [
            (0, 8e-4),
            (1, 8e-4),
            (2, 8e-4),
        ]
        assert "at the learning rate that then had learned most: 8e-04 for every arm." in outcome_caption(comparison)

    def test_diverged_runs_are_counted_over_all_rates(self) -> None:
        comparison = make_comparison({"A": {"german help": 0.5}, CONTROL: {"german help": -0.1}}, diverged=["A"])
        assert [(row.num_diverged, row.num_runs) for row in cost_rows(comparison)] == [(2, 2), (0, 2)]

    @pytest.mark.parametrize(
        ("recipe", "family"),
        [
            ({}, "kappa"),
            ({"method": None, "adapter": None}, "kappa"),
            ({"method": {"name": "plain"}}, "kappa"),
            ({"method": {"name": "ewc", "strength": 2}}, "ewc"),
            ({"adapter": {"full": None, "lora": {"rank": 4}}}, "lora"),
            ({"adapter": {"lora": {"rank": 4}}, "method": {"name": "l2_sp"}}, "l2_sp"),
        ],
    )
    def test_the_family_is_method_adapter_or_criterion(self, recipe: dict[str, object], family: str) -> None:
        comparison = make_sweep({"A": SweptArm(cost=0.1), CONTROL: SweptArm(cost=0.2)})
        runs = tuple(
            run.model_copy(update={"run": run.run.model_copy(update={"recipe": recipe})}) for run in comparison.runs
        )
        assert family_of(comparison.model_copy(update={"runs": runs}), "A") == family
