"""A Scan at the prompt and in a notebook: looking up, narrowing down, pandas, and what is shown."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pandas
import pytest

from oblong.errors import MissingExtraError, SelectionError
from oblong.records import Measures, Scan, Status, Unit, Units
from tests.report_builders import make_demo_comparison
from tests.scan_builders import make_plan, make_scan, make_unit


@pytest.fixture
def scan() -> Scan:
    return make_scan(
        [
            make_unit("layers.0.q.weight", role="q", layer=0, kappa=9.0),
            make_unit("layers.0.v.weight", role="v", layer=0, kappa=4.0),
            make_unit("layers.1.v.weight", role="v", layer=1, kappa=12.5),
            make_unit("norm.weight", role="norm", layer=None, shape=(16,), kappa=None, status=Status.VECTOR),
        ]
    )


def names(units: Units) -> list[str]:
    return [unit.name for unit in units]


def test_units_are_found_by_name_by_place_and_by_slice(scan: Scan) -> None:
    assert scan["norm.weight"] is scan[3] is scan[-1]
    assert isinstance(scan[1:], Units)
    assert names(scan[1:][::-1]) == ["norm.weight", "layers.1.v.weight", "layers.0.v.weight"]
    assert "norm.weight" in scan
    assert scan[0] in scan
    assert "nothing" not in scan
    with pytest.raises(KeyError, match="nothing"):
        _ = scan["nothing"]
    with pytest.raises(IndexError):
        _ = scan[4]


def test_every_condition_of_a_filter_must_hold(scan: Scan) -> None:
    assert names(scan.filter()) == names(scan[:])
    assert names(scan.filter(role="v")) == ["layers.0.v.weight", "layers.1.v.weight"]
    assert names(scan.filter(role=("v", "q"), layer=0)) == ["layers.0.q.weight", "layers.0.v.weight"]
    assert names(scan.filter(layer=range(1, 8))) == ["layers.1.v.weight"]
    assert names(scan.filter(status="vector")) == names(scan.filter(status=[Status.VECTOR])) == ["norm.weight"]
    assert names(scan.filter(name=r"layers\.\d\.v").filter(layer=1)) == ["layers.1.v.weight"]
    assert scan.filter(layer=7) == ()
    assert scan.filter(status="tied") == ()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"role": "nose"}, r"role='nose' is not among .* choose from: q, v, norm"),
        ({"status": "good"}, r"status='good' .* ok, rank_deficient"),
        ({"name": "("}, r"name='\(' is not a valid regular expression"),
    ],
)
def test_a_condition_that_cannot_be_meant_says_what_there_is(
    scan: Scan, condition: dict[str, Any], message: str
) -> None:
    with pytest.raises(SelectionError, match=message):
        scan.filter(**condition)


def test_measured_and_eligible_can_be_narrowed_down(scan: Scan) -> None:
    assert names(scan.measured.filter(layer=0)) == ["layers.0.q.weight", "layers.0.v.weight"]
    assert isinstance(scan.eligible, Units)


class TestPandas:
    def test_one_row_per_unit_one_column_per_field_and_measure(self, scan: Scan) -> None:
        frame = scan.to_pandas()
        fields = [name for name in Unit.model_fields if name not in ("name", "measures")]
        assert list(frame.columns) == [*fields, *Measures.model_fields]
        assert list(frame.index) == names(scan[:])
        assert frame.loc["layers.1.v.weight", "kappa"] == 12.5
        assert frame.groupby("role")["kappa"].median()["v"] == 8.25

    def test_what_was_not_measured_is_missing_not_zero(self, scan: Scan) -> None:
        row = scan.to_pandas().loc["norm.weight"]
        assert row["status"] == "vector"
        assert pandas.isna(row["kappa"])
        assert pandas.isna(row["rank"])
        assert pandas.isna(row["layer"])

    def test_dtypes_do_not_depend_on_what_is_missing(self, scan: Scan) -> None:
        dtypes = [part.to_pandas().dtypes for part in (scan[:], scan[:1], scan[3:])]
        for name in ("kappa", "kappa_full", "null_quantile", "effective_rank"):
            assert {str(each[name]) for each in dtypes} == {"float64"}
        assert {(str(each["rank"]), str(each["layer"]), str(each["resolved"])) for each in dtypes} == {
            ("Int64", "Int64", "boolean")
        }

    def test_no_units_give_an_empty_frame_with_all_columns(self, scan: Scan) -> None:
        frame = scan.filter(layer=7).to_pandas()
        assert len(frame) == 0
        assert list(frame.columns) == list(scan.to_pandas().columns)

    def test_without_pandas_it_says_what_to_install(self, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'oblong\[pandas\]'"):
            scan.to_pandas()

    def test_records_do_not_import_pandas(self) -> None:
        code = "import sys, oblong, oblong.records; print({'pandas', 'torch'} & {*sys.modules})"
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert finished.stdout.strip() == "set()"


class TableReader(HTMLParser):
    """The cells of a page, row by row; fails on a tag that is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open_tags: list[str] = []
        self.feed(page)
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open_tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


class TestNotebook:
    def test_a_scan_shows_one_row_per_role_and_what_was_not_measured(self, scan: Scan) -> None:
        page = scan._repr_html_()
        rows = TableReader(page).rows
        assert [row[:2] for row in rows] == [["role", "units"], ["q", "1"], ["v", "2"]]
        assert rows[2][3:6] == ["4", "8.25", "12.5"]
        assert "not measured: 1 vector norm" in page

    def test_a_part_of_a_scan_is_shown_alike(self, scan: Scan) -> None:
        assert len(TableReader(scan.filter(role="v")._repr_html_()).rows) == 2
        assert len(TableReader(scan.filter(layer=7)._repr_html_()).rows) == 1

    def test_plan_and_comparison(self) -> None:
        scan = make_scan()
        plan = make_plan("kappa-lowest", scan)
        rows = TableReader(plan._repr_html_()).rows
        assert rows[0] == ["tensor", "role", "parameters", plan.rule.criterion]
        assert rows[1][0] == plan.tensors[0].name
        comparison = make_demo_comparison(scan)
        rows = TableReader(comparison._repr_html_()).rows
        assert len(rows) == 1 + len(comparison.changes)
        assert rows[1][:3] == [comparison.changes[0].arm, "-", comparison.changes[0].corpus]

    def test_names_from_a_file_cannot_become_markup(self) -> None:
        evil = "<script>alert(1)</script>"
        scan = make_scan([make_unit("a", role=evil), make_unit("b", role=evil, kappa=None, status=Status.VECTOR)])
        scan = scan.model_copy(update={"header": scan.header.model_copy(update={"model": evil})})
        tensors = tuple(t.model_copy(update={"name": evil}) for t in make_plan("kappa-lowest", make_scan()).tensors)
        plan = make_plan("kappa-lowest", make_scan()).model_copy(update={"tensors": tensors, "name": evil})
        comparison = make_demo_comparison().model_copy(update={"name": evil, "control": evil})
        for record in (scan, plan, comparison):
            assert "<script" not in record._repr_html_()
            assert "&lt;script&gt;" in record._repr_html_()


def test_what_is_printed_is_one_line(scan: Scan) -> None:
    assert repr(scan) == str(scan) == f"<Scan of {scan.header.model}: 4 units, 3 measured, 3 eligible; kappa 4 to 12.5>"
    assert repr(scan.filter(layer=7)) == "<Units: 0 units, 0 measured, 0 eligible>"
    plan = make_plan("kappa-lowest", make_scan())
    assert repr(plan).startswith(f"<Plan {plan.name} of {plan.model}: {plan.totals.num_tensors} tensors, ")
    comparison = make_demo_comparison()
    assert repr(comparison) == (
        f"<Comparison {comparison.name} on {comparison.model}: {', '.join(comparison.arms)}; 2 seeds>"
    )
