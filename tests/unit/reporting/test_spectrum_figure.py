"""The figure of singular values in a report: drawn where a Scan has them, explained where it lost them."""

from __future__ import annotations

from pathlib import Path

import pytest

from oblong.planning import plan
from oblong.records import Plan, Scan
from oblong.records.spectra import get_spectra_path
from oblong.reporting.figures import build_figures, render_png
from oblong.reporting.html import render_report
from oblong.reporting.page_rows import scan_facts
from oblong.reporting.spectrum_rows import POINTS_PER_TENSOR, choose_places, list_curves, spread
from oblong.scanning import scan
from tests.checkpoint_builders import llama_tensors, write_model


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    folder = tmp_path_factory.mktemp("spectra")
    model = write_model(folder / "model", llama_tensors(width=48, hidden=64))
    scan(str(model), output=folder / "s.jsonl", spectrum="full")
    return Scan.read(folder / "s.jsonl")


@pytest.fixture(scope="module")
def plans(full: Scan) -> list[Plan]:
    lowest = plan(full, criterion="kappa", budget="8")
    names = {"lowest": lowest, "highest": plan(full, criterion="kappa", order="highest", budget="3")}
    chance = plan(full, criterion="random", budget="3")
    return [made.model_copy(update={"name": name}) for name, made in {**names, "chance": chance}.items()]


def test_rows_are_some_tensors_of_each_plan_that_has_a_criterion(full: Scan, plans: list[Plan]) -> None:
    rows = list_curves(full, plans)
    names = {arm: {row["name"] for row in rows if row["arm"] == arm} for arm in ("lowest", "highest", "chance")}
    assert {arm: len(found) for arm, found in names.items()} == {"lowest": 6, "highest": 3, "chance": 0}
    assert {plans[0].tensors[0].name, plans[0].tensors[-1].name} <= names["lowest"]
    name = plans[0].tensors[0].name
    points = [row for row in rows if row["arm"] == "lowest" and row["name"] == name]
    measures = full[name].measures
    assert measures is not None
    assert len(points) >= min(POINTS_PER_TENSOR, measures.rank)
    assert points[0]["value"] / points[-1]["value"] == pytest.approx(measures.kappa, rel=1e-4)  # 5 digits are kept
    assert points[-1]["share"] == 1.0


def test_spreading_keeps_the_ends() -> None:
    assert spread([*"abcdefg"], 3) == ("a", "d", "g")
    assert spread(["a"], 3) == ("a",)


@pytest.mark.parametrize("number", [1, 2, 23, 24, 25, 576, 16384])
def test_drawn_places_are_few_and_hold_the_ends(number: int) -> None:
    places = choose_places(number)
    assert (places[0], places[-1]) == (0, number - 1)
    assert len(set(places)) == len(places) <= 2 * POINTS_PER_TENSOR
    if number <= POINTS_PER_TENSOR:
        assert places == list(range(number))


def test_the_figure_is_valid_and_draws(full: Scan, plans: list[Plan]) -> None:
    (figure,) = (figure for figure in build_figures(scan=full, plans=plans) if figure.key == "spectra")
    figure.chart.to_dict(validate=True)
    assert render_png(figure).startswith(b"\x89PNG")
    assert 'data-figure="spectra"' in render_report(scan=full, plans=plans)


def test_a_scan_that_lost_them_says_so_and_is_reported(full: Scan, plans: list[Plan], tmp_path: Path) -> None:
    full.write(tmp_path / "s.jsonl")
    get_spectra_path(tmp_path / "s.jsonl").unlink()
    lost = Scan.read(tmp_path / "s.jsonl")
    assert not lost.has_singular_values
    assert "spectra" not in {figure.key for figure in build_figures(scan=lost, plans=plans)}
    assert "is missing: their figure is left out" in dict(scan_facts(lost))["singular values"]
    assert dict(scan_facts(full))["singular values"].startswith("all of ")
