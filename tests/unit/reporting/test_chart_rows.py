from __future__ import annotations

import math
from itertools import pairwise

import pytest

from oblong.records import Status
from oblong.reporting.chart_rows import (
    DODGE,
    heat_rows,
    loss_rows,
    mean_loss_rows,
    mosaic_rows,
    null_labels,
    null_rows,
    order_roles,
    seed_rows,
    trade_panels,
    trade_rows,
    unresolved_ranges,
)
from tests.report_builders import ARMS, GENERAL, NEW_DOMAIN, make_comparison, make_demo_comparison
from tests.scan_builders import NUM_LAYERS, ROLE_SHAPES, make_plan, make_scan, make_unit
from tests.tolerances import REPORT_ARITHMETIC


class TestHeatRows:
    def test_one_cell_per_layer_and_role_and_none_for_the_embedding(self) -> None:
        rows = heat_rows(make_scan())
        assert len(rows) == NUM_LAYERS * len(ROLE_SHAPES)
        assert {row["role"] for row in rows} == set(ROLE_SHAPES)

    def test_experts_share_a_cell_through_their_median(self) -> None:
        scan = make_scan([make_unit(f"e{kappa}", kappa=kappa, null_kappa=10.0) for kappa in (10.0, 20.0, 90.0)])
        (row,) = heat_rows(scan)
        assert (row["kappa"], row["units"], row["unresolved"]) == (20.0, 3, 0)
        assert row["kappa_excess"] == pytest.approx(math.log(2), rel=REPORT_ARITHMETIC)

    def test_unresolved_units_are_counted(self) -> None:
        scan = make_scan([make_unit("a", resolved=False), make_unit("b")])
        assert heat_rows(scan)[0]["unresolved"] == 1

    def test_unmeasured_units_leave_no_cell(self) -> None:
        assert heat_rows(make_scan([make_unit("a", kappa=None, status=Status.NON_FINITE)])) == []


class TestNullRows:
    def test_a_lone_role_stands_on_its_null(self) -> None:
        (row,) = null_rows(make_scan([make_unit("a", kappa=50.0, null_kappa=20.0)]))
        assert row["x"] == pytest.approx(20.0, rel=REPORT_ARITHMETIC)
        assert (row["kappa"], row["null_kappa"], row["shape"]) == (50.0, 20.0, "576 x 576")

    def test_roles_of_one_null_stand_side_by_side_around_it(self) -> None:
        rows = null_rows(make_scan([make_unit(role, role=role, null_kappa=20.0) for role in ("q", "o")]))
        offsets = [math.log(row["x"] / 20.0) for row in rows]
        assert offsets == pytest.approx([-DODGE / 2, DODGE / 2], rel=REPORT_ARITHMETIC)

    def test_no_two_columns_come_closer_than_a_column(self) -> None:
        places = sorted({math.log(row["x"]) for row in null_rows(make_scan())})
        gaps = [right - left for left, right in pairwise(places)]
        assert len(places) == len(ROLE_SHAPES)
        assert min(gaps) >= DODGE * (1 - REPORT_ARITHMETIC)

    def test_only_eligible_units_are_shown(self) -> None:
        assert "embedding" not in {row["role"] for row in null_rows(make_scan())}

    def test_the_unresolved_of_a_column_share_one_range(self) -> None:
        units = [
            make_unit("a", kappa=90.0, resolved=False),
            make_unit("b", kappa=30.0, resolved=False),
            make_unit("c", kappa=900.0),
        ]
        (row,) = unresolved_ranges(null_rows(make_scan(units)))
        assert (row["kappa"], row["to"]) == (10.0, 90.0)  # the builder lets kappa be three times too high

    def test_labels_name_the_shapes_of_a_cluster_once(self) -> None:
        labels = null_labels(null_rows(make_scan()))
        assert [label["shapes"] for label in labels] == [["192 x 576", "1536 x 576", "576 x 1536"], ["576 x 576"]]


def test_roles_come_as_data_flows_through_a_block() -> None:
    rows = [{"role": role} for role in ("conv", "down", "v", "gate", "q", "down", "other")]
    assert order_roles(rows) == ["q", "v", "gate", "down", "conv", "other"]


class TestTradeRows:
    def test_an_improvement_is_positive_and_its_interval_is_turned_round(self) -> None:
        comparison = make_comparison(
            {"random": {NEW_DOMAIN: -0.4, "prose": 0.02}}, half_widths={NEW_DOMAIN: 0.1, "prose": 0.005}
        )
        (row,) = trade_rows(comparison, NEW_DOMAIN, "prose")
        expected = {
            "gain": 0.4,
            "gain_low": 0.3,
            "gain_high": 0.5,
            "change": 0.02,
            "change_low": 0.015,
            "change_high": 0.025,
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=REPORT_ARITHMETIC)

    def test_every_seed_is_measured_from_the_base(self) -> None:
        comparison = make_comparison({"random": {NEW_DOMAIN: -0.4, "prose": 0.02}}, seeds=(4, 7))
        rows = seed_rows(comparison, NEW_DOMAIN, "prose")
        assert [row["seed"] for row in rows] == [4, 7]
        # the builder moves the first seed down by 0.002 and the second up by 0.002, on both corpora
        assert [row["gain"] for row in rows] == pytest.approx([0.402, 0.398])
        assert [row["change"] for row in rows] == pytest.approx([0.018, 0.022])

    def test_one_panel_per_general_corpus(self) -> None:
        assert trade_panels(make_demo_comparison()) == [(NEW_DOMAIN, general) for general in GENERAL]


class TestMosaicRows:
    def test_chosen_cells_add_up_to_the_plan(self) -> None:
        scan = make_scan()
        plan = make_plan("lowest", scan)
        rows = mosaic_rows([plan], scan)
        assert sum(row["chosen"] for row in rows) == plan.totals.num_tensors
        assert sum(row["of"] for row in rows) == len(scan.eligible)

    def test_every_plan_has_the_same_cells(self) -> None:
        scan = make_scan()
        rows = mosaic_rows([make_plan("lowest", scan), make_plan("highest", scan, order="highest")], scan)
        cells = {
            name: [(row["layer"], row["role"]) for row in rows if row["plan"] == name] for name in ("lowest", "highest")
        }
        assert cells["lowest"] == cells["highest"]

    def test_without_a_scan_only_planned_cells_are_known(self) -> None:
        plan = make_plan("lowest", make_scan())
        rows = mosaic_rows([plan], None)
        assert all(row["chosen"] == row["of"] for row in rows)
        assert sum(row["of"] for row in rows) == plan.totals.num_tensors


class TestLossRows:
    def test_the_mean_is_over_the_seeds(self) -> None:
        comparison = make_demo_comparison()
        losses = [row["loss"] for row in loss_rows(comparison) if row["arm"] == "random" and row["step"] == 5]
        means = [row["loss"] for row in mean_loss_rows(comparison) if row["arm"] == "random" and row["step"] == 5]
        assert len(losses) == 2
        assert means == pytest.approx([sum(losses) / 2], rel=REPORT_ARITHMETIC)
        assert {row["arm"] for row in mean_loss_rows(comparison)} == set(ARMS)

    def test_a_step_that_one_seed_lost_has_no_mean(self) -> None:
        comparison = make_comparison({"random": {NEW_DOMAIN: -0.4, "prose": 0.02}})
        first = comparison.runs[0]
        history = tuple(
            point.model_copy(update={"loss": None}) if point.step == 10 else point for point in first.run.history
        )
        broken = first.model_copy(update={"run": first.run.model_copy(update={"history": history})})
        comparison = comparison.model_copy(update={"runs": (broken, comparison.runs[1])})
        steps = [row["step"] for row in mean_loss_rows(comparison)]
        assert 5 in steps
        assert 10 not in steps
        assert {"arm": "random", "seed": 0, "step": 10, "loss": None} in loss_rows(comparison)
