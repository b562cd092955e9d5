from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from oblong.errors import SelectionError
from oblong.records import Scan, Status
from oblong.reporting.scan_tables import (
    SORTABLE,
    RoleRow,
    SkippedRow,
    UnitFilter,
    format_field,
    list_extremes,
    list_role_rows,
    list_skipped_rows,
    list_units,
    render_roles,
    render_skipped,
    render_units,
)
from tests.scan_builders import make_scan, make_unit


@pytest.fixture
def scan() -> Scan:
    return make_scan(
        [
            make_unit("embed", role="embedding", layer=None, shape=(90, 10), kappa=8.0, null_kappa=2.0),
            make_unit("q0", role="q", layer=0, kappa=100.0, null_kappa=50.0),
            make_unit("q1", role="q", layer=1, kappa=400.0, null_kappa=50.0, resolved=False),
            make_unit("q2", role="q", layer=2, kappa=50.0, null_kappa=50.0, shape=(8, 576)),
            make_unit("n0", role="norm", layer=0, shape=(576,), status=Status.VECTOR),
            make_unit("n1", role="norm", layer=1, shape=(576,), status=Status.VECTOR),
            make_unit("q3", role="q", layer=3, kappa=None, status=Status.NON_FINITE),
        ]
    )


def render(table: object, *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_roles_summarise_what_was_measured(scan: Scan) -> None:
    embedding, q = list_role_rows(scan)
    assert embedding.role == "embedding"
    assert q == RoleRow(
        role="q",
        num_units=3,
        shapes=((576, 576), (8, 576)),
        kappa_min=50.0,
        kappa_median=100.0,
        kappa_max=400.0,
        null_kappa=50.0,
        kappa_excess=math.log(2.0),  # the middle of ln 1, ln 2, ln 8
        num_unresolved=1,
    )


def test_what_was_not_measured_is_counted_with_its_reason(scan: Scan) -> None:
    assert list_skipped_rows(scan) == (
        SkippedRow(status=Status.VECTOR, role="norm", num_units=2, reason="norm tensors are not eligible by default"),
        SkippedRow(status=Status.NON_FINITE, role="q", num_units=1, reason="holds NaN or infinite elements"),
    )


def test_every_unit_is_in_one_of_the_two_tables() -> None:
    scan = make_scan()
    counts = [row.num_units for row in list_role_rows(scan)] + [row.num_units for row in list_skipped_rows(scan)]
    assert sum(counts) == len(scan)


@pytest.mark.parametrize(
    ("sort", "descending", "expected"),
    [
        (None, False, ["embed", "q0", "q1", "q2", "n0", "n1", "q3"]),
        ("kappa", False, ["embed", "q2", "q0", "q1", "n0", "n1", "q3"]),
        ("kappa", True, ["q1", "q0", "q2", "embed", "n0", "n1", "q3"]),
        ("layer", False, ["q0", "n0", "q1", "n1", "q2", "q3", "embed"]),
    ],
)
def test_units_without_a_value_come_last(scan: Scan, sort: str | None, descending: bool, expected: list[str]) -> None:
    assert [unit.name for unit in list_units(scan.units, sort=sort, descending=descending)] == expected


def test_extremes_leave_out_units_without_a_value(scan: Scan) -> None:
    assert [unit.name for unit in list_extremes(scan.units, "kappa", 9, highest=True)] == ["q1", "q0", "q2", "embed"]
    assert [unit.name for unit in list_extremes(scan.units, "kappa", 1, highest=False)] == ["embed"]


@pytest.mark.parametrize("field", SORTABLE)
def test_every_field_can_be_sorted_and_shown(scan: Scan, field: str) -> None:
    units = list_units(scan.units, sort=field)
    assert len(units) == len(scan)
    render(render_units(units, title="all", sort=field), width=200)


def test_an_unknown_field_lists_those_there_are(scan: Scan) -> None:
    with pytest.raises(SelectionError, match=r"no field 'roundness'.*kappa.*stable_rank"):
        list_units(scan.units, sort="roundness")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (UnitFilter(), 7),
        (UnitFilter(role="q"), 4),
        (UnitFilter(first_layer=1, last_layer=2), 3),
        (UnitFilter(first_layer=0, last_layer=0, role="norm"), 1),
        (UnitFilter(status=Status.VECTOR), 2),
    ],
)
def test_filters(scan: Scan, wanted: UnitFilter, expected: int) -> None:
    assert sum(wanted.accepts(unit) for unit in scan) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (1234567, "1,234,567"), (4.3678, "4.37"), (1310.4, "1,310"), (2.4e6, "2.4e+06")],
)
def test_cells(value: object, text: str) -> None:
    assert format_field(value) == text


def test_the_summary_fits_eighty_columns_with_every_number() -> None:
    scan = make_scan()
    text = render(render_roles(scan))
    assert all(row.role in text for row in list_role_rows(scan))
    assert "…" not in text
    assert "49152 x 576" in text


def test_unresolved_numbers_are_marked_and_the_mark_is_explained(scan: Scan) -> None:
    text = render(render_units(scan.units, title="all"))
    assert "400*" in text
    assert "hides the smallest singular value" in " ".join(text.split())
    assert "*" not in render(render_units(scan.units[:2], title="two"))


def test_the_rest_is_counted(scan: Scan) -> None:
    assert "and 5 more" in render(render_units(scan.units, title="all", limit=2))


def test_no_table_when_nothing_was_left_out() -> None:
    assert render_skipped(make_scan([make_unit("q0")])) is None


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    text = render(render_units([make_unit("experts[expert.0]")], title="one"))
    assert "experts[expert.0]" in text
