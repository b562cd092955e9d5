from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.console import Console, RenderableType

from oblong.errors import SelectionError
from oblong.reporting.spectrum_rows import compute_null_share, list_bins, list_quantiles
from oblong.reporting.spectrum_tables import BAR, BAR_WIDTH, NULL_MARK, draw_bar, find_unit, render_unit
from tests import tolerances
from tests.scan_builders import make_scan


def render(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("ratio", [1e-4, 0.1, 0.5, 0.999, 1.0])
def test_the_null_is_a_distribution(ratio: float) -> None:
    assert compute_null_share(0.0, math.inf, ratio) == pytest.approx(1.0, rel=tolerances.NULL_SHARE)
    low, high = 1 - math.sqrt(ratio), 1 + math.sqrt(ratio)
    assert compute_null_share(low, high, ratio) == pytest.approx(1.0, rel=tolerances.NULL_SHARE)
    assert compute_null_share(high, math.inf, ratio) == pytest.approx(0.0, abs=tolerances.NULL_SHARE)
    assert compute_null_share(0.0, low, ratio) == pytest.approx(0.0, abs=tolerances.NULL_SHARE)


def test_the_null_of_a_square_matrix_is_a_quarter_circle() -> None:
    """s^2 = 4 cos(u)^2 gives the share below s as (2 / pi) (u' + sin(2 u') / 2), u' = asin(s / 2)."""
    for value in (0.3, 1.0, 1.7):
        angle = math.asin(value / 2)
        expected = 2 / math.pi * (angle + math.sin(2 * angle) / 2)
        assert compute_null_share(0.0, value, 1.0) == pytest.approx(expected, rel=tolerances.NULL_SHARE)


@pytest.mark.parametrize("shape", [(500, 500), (400, 1200), (1500, 300)])
def test_a_gaussian_matrix_has_the_counts_of_the_null(shape: tuple[int, int]) -> None:
    values = np.linalg.svd(0.02 * np.random.default_rng(3).standard_normal(shape), compute_uv=False)
    rows = list_bins(values.tolist(), shape)
    assert sum(row.count for row in rows) == min(shape)
    assert sum(row.expected for row in rows) == pytest.approx(min(shape), rel=tolerances.NULL_SHARE)
    for row in rows:
        assert abs(row.count - row.expected) <= 4  # eigenvalues repel each other: the counts hardly fluctuate


def test_outliers_and_zeros_have_bins() -> None:
    values = [1000.0, *np.linspace(2.0, 1.0, 150).tolist(), 0.0]
    rows = list_bins(values, (152, 200))
    assert sum(row.count for row in rows) == 152
    assert rows[0].low == 0.0
    assert rows[0].count >= 1
    assert rows[-1].count == 1 or math.isfinite(rows[-1].high)


@pytest.mark.parametrize("values", [[2.0], [3.0, 3.0, 3.0], [1.0, 1e-300], [1e300, 1.0]])
def test_extreme_spectra_have_rows(values: list[float]) -> None:
    rows = list_bins(values, (len(values), 7))
    assert sum(row.count for row in rows) == len(values)
    quantiles = list_quantiles(values)
    assert (quantiles[0].value, quantiles[-1].value) == (values[0], values[-1])


def test_quantiles_by_hand() -> None:
    rows = {row.share: (row.value, row.ratio) for row in list_quantiles([float(value) for value in range(100, 0, -1)])}
    assert rows[0.0] == (100.0, 1.0)
    assert rows[0.05] == (96.0, 100 / 96)  # 5 of 100 values are at least 96
    assert rows[0.5] == (51.0, 100 / 51)
    assert rows[1.0] == (1.0, 100.0)


def test_bars() -> None:
    assert draw_bar(1.0, 0.0) == BAR * BAR_WIDTH
    assert draw_bar(0.0, 0.0) == ""
    assert draw_bar(1e-9, 0.0) == BAR
    assert draw_bar(0.0, 1.0) == " " * BAR_WIDTH + NULL_MARK
    assert draw_bar(1.0, 0.5)[BAR_WIDTH // 2] == NULL_MARK


def test_a_unit_is_shown_with_and_without_its_values() -> None:
    scan = make_scan()
    unit = scan.measured[0]
    assert unit.measures is not None
    assert unit.matrix_shape is not None
    values = np.geomspace(unit.measures.sigma_max, unit.measures.sigma_min, min(unit.matrix_shape)).tolist()
    text = render(render_unit(unit, values))
    for part in (unit.name, "kappa_excess", "non-zero singular values", "Marchenko-Pastur"):
        assert part in text
    assert "singular values" not in render(render_unit(unit, None))


def test_an_unknown_unit_is_answered_with_similar_ones() -> None:
    scan = make_scan()
    name = scan.measured[0].name
    assert find_unit(scan, name).name == name
    with pytest.raises(SelectionError, match="the most similar are"):
        find_unit(scan, name[:-3])
    with pytest.raises(SelectionError, match="the most similar are"):
        find_unit(scan, "")
