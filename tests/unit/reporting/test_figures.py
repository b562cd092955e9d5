from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oblong.errors import OutputExistsError, OutputWriteError
from oblong.records import Status
from oblong.reporting.chart_rows import heat_rows, loss_rows, null_rows
from oblong.reporting.figures import Figure, build_figures, render_png, render_svg, style_report, write_figures
from oblong.reporting.front_rows import count_outside, curve_rows, front_rows
from oblong.reporting.theme import CONTROL_COLOUR, PAPER, SCREEN
from tests.report_builders import ARMS, CONTROL, make_comparison, make_demo_comparison
from tests.scan_builders import make_plan, make_scan, make_unit
from tests.sweep_builders import GAIN, make_many_arms, make_sweep

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ALL_KEYS = [
    "learning-against-forgetting",
    "kappa-map",
    "excess-map",
    "kappa-against-null",
    "plans",
    "training-loss",
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    scan = make_scan()
    comparison = make_demo_comparison(scan)
    built = build_figures(scan=scan, comparison=comparison, plans=list(comparison.plans.values()))
    return {figure.key: figure for figure in built}


@pytest.fixture(scope="module")
def specs(figures: dict[str, Figure]) -> dict[str, dict[str, Any]]:
    return {key: figure.spec(PAPER) for key, figure in figures.items()}


def walk(node: object) -> Iterator[dict[str, Any]]:
    """Every object inside a specification."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def tables(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Every table of data that a specification embeds."""
    return [node["data"]["values"] for node in walk(spec) if "data" in node]


def channels(spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Every definition of one encoding channel."""
    return [node["encoding"][name] for node in walk(spec) if name in node.get("encoding", {})]


def test_all_figures_in_reading_order(figures: dict[str, Figure]) -> None:
    assert list(figures) == ALL_KEYS


def test_a_scan_alone_has_its_own_figures() -> None:
    keys = [figure.key for figure in build_figures(scan=make_scan())]
    assert keys == ["kappa-map", "excess-map", "kappa-against-null"]


def test_a_scan_without_a_spectrum_has_none() -> None:
    assert build_figures(scan=make_scan([make_unit("a", kappa=None, status=Status.ZERO)])) == ()


def test_a_plan_alone_has_its_mosaic() -> None:
    assert [figure.key for figure in build_figures(plans=[make_plan("lowest", make_scan())])] == ["plans"]


def test_the_data_of_each_figure_is_its_rows(specs: dict[str, dict[str, Any]]) -> None:
    scan = make_scan()
    assert heat_rows(scan) in tables(specs["kappa-map"])
    assert heat_rows(scan) in tables(specs["excess-map"])
    assert null_rows(scan) in tables(specs["kappa-against-null"])
    assert loss_rows(make_demo_comparison(scan)) in tables(specs["training-loss"])


def test_kappa_is_coloured_on_a_log_scale(specs: dict[str, dict[str, Any]]) -> None:
    (colour,) = channels(specs["kappa-map"], "color")
    assert colour["field"] == "kappa"
    assert colour["scale"]["type"] == "log"


def test_the_excess_is_coloured_symmetrically_around_zero(specs: dict[str, dict[str, Any]]) -> None:
    (colour,) = channels(specs["excess-map"], "color")
    low, high = colour["scale"]["domain"]
    assert colour["scale"]["domainMid"] == 0
    assert low == -high
    assert high == max(abs(row["kappa_excess"]) for row in heat_rows(make_scan()))


def test_the_null_figure_is_log_log(specs: dict[str, dict[str, Any]]) -> None:
    for name in ("x", "y"):
        scales = [channel["scale"] for channel in channels(specs["kappa-against-null"], name) if "scale" in channel]
        assert scales
        assert all(scale["type"] == "log" for scale in scales)


def test_the_line_of_equality_is_one(specs: dict[str, dict[str, Any]]) -> None:
    (line,) = [node for node in walk(specs["kappa-against-null"]) if _mark(node).get("type") == "line"]
    ends = line["data"]["values"]
    assert len(ends) == 2
    assert all(end["x"] == end["kappa"] for end in ends)


def test_an_arm_has_one_colour_in_every_figure(specs: dict[str, dict[str, Any]]) -> None:
    scales = [
        channel["scale"]
        for key in ("learning-against-forgetting", "training-loss")
        for channel in channels(specs[key], "color")
    ]
    colours = dict(zip(scales[0]["domain"], scales[0]["range"], strict=True))
    assert all(dict(zip(scale["domain"], scale["range"], strict=True)) == colours for scale in scales)
    mosaic = {node["mark"]["color"] for node in walk(specs["plans"]) if "color" in _mark(node)}
    assert mosaic == set(colours.values())
    assert len(set(colours.values())) == len(ARMS)
    assert colours[CONTROL] == CONTROL_COLOUR


def _mark(node: dict[str, Any]) -> dict[str, Any]:
    mark = node.get("mark")
    return mark if isinstance(mark, dict) else {}


def test_another_plan_recolours_no_arm() -> None:
    comparison = make_demo_comparison()
    extra = make_plan("aaa", make_scan())
    assert {**style_report(comparison, [extra]), **style_report(comparison, [])} == style_report(comparison, [extra])


def test_the_ink_follows_the_medium(figures: dict[str, Figure]) -> None:
    figure = figures["kappa-map"]
    assert figure.spec(SCREEN)["config"]["axis"]["labelColor"] == "currentColor"
    assert figure.spec(SCREEN)["config"]["background"] is None
    assert figure.spec(PAPER)["config"]["background"] == "#ffffff"


def test_every_figure_has_words(figures: dict[str, Figure], specs: dict[str, dict[str, Any]]) -> None:
    assert all(figure.title and figure.caption and figure.alt_text for figure in figures.values())
    assert {key: spec["description"] for key, spec in specs.items()} == {
        key: figure.alt_text for key, figure in figures.items()
    }


def test_unresolved_kappas_are_explained_only_where_there_are_some() -> None:
    def caption(*, resolved: bool) -> str:
        return build_figures(scan=make_scan([make_unit("a", resolved=resolved)]))[0].caption

    assert "does not resolve" in caption(resolved=False)
    assert "does not resolve" not in caption(resolved=True)


def test_arms_that_share_a_colour_are_of_one_family_and_differ_in_shape() -> None:
    comparison = make_sweep(make_many_arms())
    styles = style_report(comparison, [])
    marks = {(style.colour, style.shape) for style in styles.values()}
    assert len(marks) == len(comparison.arms) == 20
    kappa = {styles[arm].colour for arm in comparison.arms if arm.startswith("kappa-")}
    excess = {styles[arm].colour for arm in comparison.arms if arm.startswith("kappa_excess-")}
    assert len(kappa) == len(excess) == 1
    assert kappa != excess
    assert styles[CONTROL].colour == CONTROL_COLOUR


class TestFronts:
    @pytest.mark.parametrize("many", [False, True])
    def test_it_is_valid_draws_and_holds_the_rows(self, many: bool) -> None:
        eleven = dict(list(make_many_arms().items())[-11:])
        comparison = make_sweep(eleven) if many else make_sweep()
        figures = {figure.key: figure for figure in build_figures(comparison=comparison)}
        assert ("each-arm" in figures) is many
        for key in ("learning-forgetting-fronts", "each-arm")[: 1 + many]:
            figures[key].chart.to_dict(validate=True)
            assert render_png(figures[key]).startswith(PNG_SIGNATURE)
        drawn = tables(figures["learning-forgetting-fronts"].spec(PAPER))
        for retention in comparison.retention:
            assert front_rows(retention) in drawn
            assert (curve_rows(retention) in drawn) is not many

    def test_the_gain_is_a_line_in_every_panel(self) -> None:
        spec = build_figures(comparison=make_sweep())[0].spec(PAPER)
        lines = [node for node in walk(spec) if _mark(node).get("style") == "matched"]
        assert [node["data"]["values"][0]["gain"] for node in lines] == [GAIN] * 3

    def test_without_a_gain_there_is_no_line_and_no_word_of_it(self) -> None:
        figure = build_figures(comparison=make_sweep(gain=None))[0]
        lines = [node for node in walk(figure.spec(PAPER)) if _mark(node).get("style") == "matched"]
        assert [node["data"]["values"] for node in lines] == [[]] * 3
        assert "vertical line" not in figure.caption

    def test_states_outside_the_frame_are_counted_in_the_caption(self) -> None:
        comparison = make_sweep()
        outside = sum(map(count_outside, comparison.retention))
        assert outside > 0
        assert f"{outside} states" in build_figures(comparison=comparison)[0].caption


def test_no_figure_refers_to_the_network(specs: dict[str, dict[str, Any]]) -> None:
    for spec in specs.values():
        assert not [node for node in walk(spec) if "url" in node]
        assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
        assert "http" not in json.dumps({key: value for key, value in spec.items() if key != "$schema"})


def test_the_same_records_give_the_same_specification(specs: dict[str, dict[str, Any]]) -> None:
    again = build_figures(scan=make_scan(), plans=list(make_demo_comparison().plans.values()))
    assert {figure.key: figure.spec(PAPER) for figure in again[:3]} == {key: specs[key] for key in ALL_KEYS[1:4]}


@pytest.mark.parametrize("key", ALL_KEYS)
def test_every_figure_is_valid_and_draws(figures: dict[str, Figure], key: str) -> None:
    figures[key].chart.to_dict(validate=True)  # raises where the Vega-Lite schema is violated
    assert render_png(figures[key]).startswith(PNG_SIGNATURE)


def test_a_name_is_data_in_svg(figures: dict[str, Figure]) -> None:
    comparison = make_comparison(
        {"<script>": {"german help": -0.1, "prose": 0.1}, "random": {"german help": 0.0, "prose": 0.0}}
    )
    figure = next(iter(build_figures(comparison=comparison)))
    svg = render_svg(figure)
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg


class TestWriting:
    def test_png_and_svg_of_each(self, figures: dict[str, Figure], tmp_path: Path) -> None:
        paths = write_figures(tmp_path / "out", [figures["kappa-map"]])
        assert [path.name for path in paths] == ["kappa-map.png", "kappa-map.svg"]
        assert paths[0].read_bytes().startswith(PNG_SIGNATURE)
        assert paths[1].read_text().startswith("<svg")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kappa-map.png", "kappa-map.svg"]

    def test_nothing_is_overwritten_without_force(self, figures: dict[str, Figure], tmp_path: Path) -> None:
        (tmp_path / "kappa-map.svg").write_text("mine")
        with pytest.raises(OutputExistsError, match=r"kappa-map\.svg"):
            write_figures(tmp_path, [figures["kappa-map"]])
        assert [path.name for path in tmp_path.iterdir()] == ["kappa-map.svg"]
        write_figures(tmp_path, [figures["kappa-map"]], force=True)
        assert (tmp_path / "kappa-map.svg").read_text().startswith("<svg")

    def test_a_place_that_cannot_be_written_is_named(self, figures: dict[str, Figure], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputWriteError, match=r"kappa-map\.png"):
            write_figures(tmp_path / "file", [figures["kappa-map"]])
