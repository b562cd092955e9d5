from __future__ import annotations

import io

import pytest
from rich.console import Console

from oblong.records import Comparison, Evaluation
from oblong.reporting.arms import runs_of
from oblong.reporting.comparison_tables import (
    cost_cells,
    cost_rows,
    outcome_caption,
    outcome_cells,
    outcome_sections,
    render_comparison,
    render_markdown,
)
from oblong.reporting.formats import (
    format_duration,
    format_interval,
    format_kappa,
    format_megabytes,
    format_parameters,
    format_rate,
    format_share,
    format_yes,
)
from tests.report_builders import ARMS, GENERAL, NEW_DOMAIN, make_comparison, make_demo_comparison, make_interval
from tests.tolerances import REPORT_ARITHMETIC


def test_one_section_per_corpus_new_domain_first_arms_in_recipe_order() -> None:
    sections = outcome_sections(make_demo_comparison())
    assert [(section.corpus, section.new_domain) for section in sections] == [
        (NEW_DOMAIN, True),
        (GENERAL[0], False),
        (GENERAL[1], False),
    ]
    assert all(tuple(row.arm for row in section.rows) == ARMS for section in sections)


def test_a_new_domain_that_was_evaluated_last_still_comes_first() -> None:
    comparison = make_demo_comparison()
    corpora = dict(reversed(list(comparison.base.corpora.items())))
    base = comparison.base.model_copy(update={"corpora": corpora})
    sections = outcome_sections(comparison.model_copy(update={"base": base}))
    assert [section.corpus for section in sections] == [NEW_DOMAIN, GENERAL[1], GENERAL[0]]


def test_a_row_carries_what_the_record_says() -> None:
    comparison = make_comparison(
        {"a": {NEW_DOMAIN: -0.5, "prose": 0.02}, "random": {NEW_DOMAIN: -0.4, "prose": 0.01}},
        half_widths={"prose": 0.003},
    )
    row = outcome_sections(comparison)[1].rows[0]
    assert (row.arm, row.is_control, row.before) == ("a", False, 3.0)
    assert row.after == pytest.approx(3.02, rel=REPORT_ARITHMETIC)
    assert row.change == make_interval(0.02, 0.003)
    assert row.against_control == make_interval(0.02 - 0.01, 0.003)
    assert row.kl_to_base == pytest.approx(0.02, rel=REPORT_ARITHMETIC)
    assert outcome_cells(row)[2:5] == (
        "3.0000 → 3.0200",
        "+0.0200 [+0.0170, +0.0230]",
        "+0.0100 [+0.0070, +0.0130]",
    )


def test_the_control_is_compared_with_nobody() -> None:
    control = outcome_sections(make_demo_comparison())[0].rows[-1]
    assert control.is_control
    assert control.against_control is None
    assert outcome_cells(control)[4] == "control"


def test_kl_is_unknown_when_one_seed_has_none() -> None:
    comparison = make_demo_comparison()
    first = comparison.runs[0]
    corpora = dict(first.evaluation.corpora)
    documents = tuple(document.model_copy(update={"kl": None}) for document in corpora[NEW_DOMAIN].documents)
    corpora[NEW_DOMAIN] = corpora[NEW_DOMAIN].model_copy(update={"documents": documents})
    blind = first.model_copy(update={"evaluation": first.evaluation.model_copy(update={"corpora": corpora})})
    comparison = comparison.model_copy(update={"runs": (blind, *comparison.runs[1:])})
    rows = outcome_sections(comparison)[0].rows
    assert rows[0].kl_to_base is None
    assert rows[1].kl_to_base is not None
    assert outcome_cells(rows[0])[5] == "-"


def test_costs_are_means_over_seeds_and_the_memory_is_the_peak() -> None:
    comparison = make_comparison({"random": {NEW_DOMAIN: -0.1, "prose": 0.0}}, seeds=(0, 2))
    comparison = _with_memory(comparison, [1_000_000_000, 1_500_000_000])
    (row,) = cost_rows(comparison)
    assert row.seconds == 62.0  # 61 + seed, seeds 0 and 2
    assert row.peak_memory_bytes == 1_500_000_000
    assert row.num_trainable == comparison.plans["random"].totals.num_parameters
    assert row.share == row.num_trainable / 134_515_008
    assert row.fraction_moved == pytest.approx(0.93, rel=REPORT_ARITHMETIC)


def test_an_arm_without_drift_has_no_share_of_moved_weights() -> None:
    comparison = make_demo_comparison()
    first = comparison.runs[0]
    still: Evaluation = first.evaluation.model_copy(update={"drift": None})
    runs = (first.model_copy(update={"evaluation": still}), *comparison.runs[1:])
    assert cost_rows(comparison.model_copy(update={"runs": runs}))[0].fraction_moved is None


def test_diverged_runs_are_named_in_the_cost_table() -> None:
    comparison = make_comparison(
        {"a": {NEW_DOMAIN: 0.5, "prose": 1.0}, "random": {NEW_DOMAIN: -0.1, "prose": 0.0}}, diverged=["a"]
    )
    rows = cost_rows(comparison)
    assert [row.num_diverged for row in rows] == [2, 0]
    assert cost_cells(rows[0])[0] == "a (2 of 2 diverged)"
    assert cost_cells(rows[1])[0] == "random"


def test_runs_of_an_arm_are_its_seeds() -> None:
    assert [run.seed for run in runs_of(make_demo_comparison(seeds=(3, 5)), "random")] == [3, 5]


def test_the_terminal_tables_fit_120_columns_whole() -> None:
    text = _print(make_demo_comparison(), width=120)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "kappa-lowest-within-role    yes  2.9991 → 2.5421  -0.4570 [-0.4880, -0.4260]" in text


@pytest.mark.parametrize(("seeds", "over"), [((0, 1), "over documents."), ((0, 1, 2), "over documents and seeds.")])
def test_the_caption_says_what_the_intervals_cover(seeds: tuple[int, ...], over: str) -> None:
    assert f"95 % bootstrap intervals {over}" in outcome_caption(make_demo_comparison(seeds=seeds))


def test_names_are_text_not_markup() -> None:
    comparison = make_comparison(
        {"[red]a": {NEW_DOMAIN: -0.1, "[b]prose": 0.0}, "random": {NEW_DOMAIN: 0, "[b]prose": 0}}
    )
    text = _print(comparison, width=120)
    assert "[red]a" in text
    assert "[b]prose" in text
    assert r"\[red\]a" in render_markdown(comparison)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_interval(make_interval(-0.05, 0.01)), "-0.0500 [-0.0600, -0.0400]"),
        (format_interval(None), "-"),
        (format_parameters(950), "950"),
        (format_parameters(318_000), "318.0 k"),
        (format_parameters(10_600_000), "10.6 M"),
        (format_parameters(1_700_000_000), "1.7 G"),
        (format_share(0.0789), "7.9 %"),
        (format_share(None), "-"),
        (format_megabytes(1_250_400_000), "1,250 MB"),
        (format_duration(61.6), "62 s"),
        (format_duration(200.2), "3 min 20 s"),
        (format_rate(2e-4), "2e-04"),
        (format_rate(1.5e-5), "1.5e-05"),
        (format_rate(1.0), "1e+00"),
        (format_yes(None), "-"),
        (format_kappa(5.1723), "5.172"),
        (format_kappa(17_106.3), "17,106"),
        (format_kappa(2.34e7), "2.3e+07"),
    ],
)
def test_numbers_are_written_one_way(text: str, expected: str) -> None:
    assert text == expected


def _with_memory(comparison: Comparison, peaks: list[int]) -> Comparison:
    runs = tuple(
        arm_run.model_copy(update={"run": arm_run.run.model_copy(update={"peak_memory_bytes": peak})})
        for arm_run, peak in zip(comparison.runs, peaks, strict=True)
    )
    return comparison.model_copy(update={"runs": runs})


def _print(comparison: Comparison, *, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in render_comparison(comparison):
        console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()
