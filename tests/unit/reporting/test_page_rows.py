from __future__ import annotations

import pytest

from oblong.records import Budget, Rule, Scan, Status
from oblong.reporting import page_rows
from oblong.reporting.comparison_tables import outcome_sections
from oblong.reporting.page_rows import (
    MEASURE_HEADINGS,
    Cell,
    describe_rule,
    measure_rows,
    outcome_bars,
    plan_views,
    provenance_rows,
    scan_facts,
    status_rows,
)
from tests.report_builders import NEW_DOMAIN, make_comparison, make_demo_comparison
from tests.scan_builders import make_plan, make_scan, make_unit
from tests.tolerances import REPORT_ARITHMETIC


def cells_of(scan: Scan) -> dict[str, Cell]:
    """The first row's cells by heading."""
    return dict(zip(MEASURE_HEADINGS, measure_rows(scan)[0], strict=True))


def test_facts_of_a_scan() -> None:
    facts = dict(scan_facts(make_scan()))
    assert facts["files"] == "model.safetensors; 269.1 MB; safetensors"
    assert facts["tensors"] == "241"
    assert "filters" not in facts


def test_filters_of_a_scan_are_a_fact() -> None:
    scan = make_scan()
    config = scan.header.config.model_copy(update={"include": "mlp", "exclude": "down"})
    scan = scan.model_copy(update={"header": scan.header.model_copy(update={"config": config})})
    assert dict(scan_facts(scan))["filters"] == "include mlp, exclude down"


def test_statuses_are_counted_and_explained() -> None:
    assert status_rows(make_scan()) == (
        ("ok", "measured", 211),
        ("vector", Status.VECTOR.explanation, 30),
    )


def test_a_measured_row() -> None:
    cells = cells_of(make_scan([make_unit("a", kappa=50.0, null_kappa=25.0)]))
    assert cells["kappa"] == Cell(text="50", number=50.0)
    assert cells["excess"].text == "+0.693"
    assert cells["shape"] == Cell(text="576 x 576", number=576 * 576)
    assert cells["status"] == Cell(text="ok", note="measured")


def test_an_unresolved_kappa_is_an_interval() -> None:
    cell = cells_of(make_scan([make_unit("a", kappa=60.0, resolved=False)]))["kappa"]
    assert cell == Cell(text="~60", number=60.0, note="not resolved by BF16: between 20 and unbounded")


def test_an_unmeasured_row_says_why_and_has_no_numbers() -> None:
    cells = cells_of(make_scan([make_unit("a", kappa=None, status=Status.NON_FINITE)]))
    assert cells["status"].note == Status.NON_FINITE.explanation
    assert [cells[heading] for heading in ("kappa", "excess", "stable rank")] == [Cell(text="")] * 3


def test_a_huge_scan_shows_its_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_rows, "MAX_MEASURE_ROWS", 4)
    units = [make_unit(f"u{kappa}", kappa=kappa) for kappa in (5.0, 1.0, 9.0, 3.0, 7.0)]
    names = [row[0].text for row in measure_rows(make_scan(units))]
    assert names == ["u1.0", "u9.0", "u3.0", "u7.0"]


class TestOutcomeBars:
    def test_all_bars_of_a_corpus_share_a_scale_that_holds_zero(self) -> None:
        comparison = make_comparison(
            {"a": {NEW_DOMAIN: -0.4, "prose": 0.0}, "random": {NEW_DOMAIN: -0.1, "prose": 0.0}},
            half_widths={NEW_DOMAIN: 0.1},
        )
        first, second = outcome_bars(outcome_sections(comparison)[0])
        # the scale runs from -0.5 to 0
        assert (first.low, first.mean, first.high, first.zero) == pytest.approx(
            (0.0, 20.0, 40.0, 100.0), abs=100 * REPORT_ARITHMETIC
        )
        assert (second.low, second.mean, second.high) == pytest.approx((60.0, 80.0, 100.0), rel=REPORT_ARITHMETIC)

    def test_no_change_at_all_is_no_division_by_zero(self) -> None:
        comparison = make_comparison({"random": {NEW_DOMAIN: 0.0, "prose": 0.0}}, half_widths={NEW_DOMAIN: 0.0})
        (bar,) = outcome_bars(outcome_sections(comparison)[0])
        assert (bar.low, bar.high, bar.zero) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            Rule(
                criterion="kappa",
                order="lowest",
                within="role",
                budget=Budget(text="5%", unit="parameters", amount=6_700_000),
            ),
            "lowest kappa within each role, budget 5% or 6.7 M parameters",
        ),
        (
            Rule(
                criterion="random",
                order="lowest",
                within="model",
                budget=Budget(text="100", unit="tensors", amount=100),
                seed=3,
                match="role_and_shape",
            ),
            "random draw, seed 3, of the whole model, matched in role and shape, budget 100 tensors",
        ),
        (
            Rule(
                criterion="depth",
                order="highest",
                within="shape",
                budget=Budget(text="100", unit="tensors", amount=100),
                include_ineligible=True,
            ),
            "highest depth within each shape, budget 100 tensors, ineligible tensors included",
        ),
    ],
)
def test_a_rule_in_words(rule: Rule, expected: str) -> None:
    assert describe_rule(rule) == expected


def test_a_plan_as_shown() -> None:
    plan = make_plan("lowest", make_scan(), num_parameters=250_000)
    (view,) = plan_views([plan])
    assert view.totals == "2 tensors, 221.2 k parameters, 0.2 % of the model"
    assert view.roles == "2 v"
    assert [row[0] for row in view.tensors] == [tensor.name for tensor in plan.tensors]
    assert view.tensors[0][1:] == ("192 x 576", f"{plan.tensors[0].value:.4g}", "chosen by kappa")


def test_provenance_names_digests_seeds_and_commands() -> None:
    scan = make_scan()
    comparison = make_demo_comparison(scan)
    plan = make_plan("lowest", scan)
    rows = dict(provenance_rows(scan=scan, comparison=comparison, plans=[plan]))
    assert rows["scan digest"] == scan.digest()
    assert rows["comparison digest"] == comparison.digest()
    assert rows["plan lowest"] == plan.digest()
    assert rows["seeds"] == "0, 1"
    assert rows["evaluation"] == "window 512, stride 256, bfloat16"
    assert "command: oblong scan demo" in rows["scan"]
    assert rows["corpus python code"].startswith("bundled:python, 8,000 tokens, sha256:")
