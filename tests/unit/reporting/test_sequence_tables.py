"""The rows, tables and words of a sequence of tasks and of relearning."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from oblong.records import Comparison
from oblong.reporting.chart_rows import loss_rows
from oblong.reporting.html import render_report
from oblong.reporting.reading import Topic, read_comparison
from oblong.reporting.relearning_tables import describe_relearning, list_relearned, relearning_cells, render_relearning
from oblong.reporting.sequence_reading import describe_sequence
from oblong.reporting.sequence_tables import matrix_sections, measure_cells, measure_sections, render_sequence
from tests.report_builders import make_demo_comparison
from tests.sequence_builders import NAMES, WAYS, make_sequence


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return make_sequence()


def test_one_matrix_per_arm_with_the_task_just_learned_marked(comparison: Comparison) -> None:
    assert comparison.sequence is not None
    sections = matrix_sections(comparison.sequence)
    assert [section.label for section in sections] == ["plain", "replay", "packnet", "packnet, told the task"]
    for section in sections[:3]:
        assert [(row.after, row.learned) for row in section.rows] == list(zip(NAMES, range(3), strict=True))
        for row, expected in zip(section.rows, WAYS[section.arm], strict=True):
            assert row.losses == pytest.approx(expected)


def test_the_measures_stand_under_one_another_with_their_differences(comparison: Comparison) -> None:
    found = {section.name: [measure_cells(row) for row in section.rows] for section in measure_sections(comparison)}
    assert list(found) == ["average gain", "backward transfer", "forward transfer", "forgetting"]
    # replay: gains at the end 0.5, 0.5 and 0.3; the first two had reached 0.55 and 0.55
    plain, replay, _, told = found["average gain"]
    assert replay[1].startswith("+0.4333 [")
    assert plain[2:] == ("control", "-")
    assert replay[2].startswith("+0.0667 [")
    assert told[2:] == ("-", "-")
    assert found["backward transfer"][1][1].startswith("-0.0500 [")
    assert found["forgetting"][1][1].startswith("+0.0500 [")
    assert found["forgetting"][1][2].startswith("-0.2000 [")
    # what the others did for office and python before these were learned: (2.9 - 2.94) and (2.4 - 2.4), halved
    assert found["forward transfer"][1][1].startswith("-0.0200 [")


def test_the_words_say_what_is_significant_and_who_was_told(comparison: Comparison) -> None:
    opening, against, told = describe_sequence(comparison)
    assert opening == (
        "german help, office and python were learned one after the other. At the end the control, plain, has gained "
        "0.3667 nats per token over the base, mean over the tasks, and has forgotten 0.2500 of what it had gained on "
        "the earlier ones."
    )
    assert "forgetting: replay forgets less (-0.2000, p < 0.0001)" in against
    assert "packnet has gained less (-0.1000" in against
    assert told.startswith("Told which task a text is of, packnet has gained 0.3667")
    assert "has not demonstrably forgotten anything" in told
    reading = read_comparison(comparison)
    assert reading.headline[0] == opening
    assert reading.about(Topic.SEQUENCE) == (against, told)
    assert set(reading.about(Topic.SEQUENCE)) <= set(reading.brief)


def test_a_sequence_that_broke_off_has_its_rows_and_no_measures() -> None:
    broken = make_sequence(broken="replay")
    assert broken.sequence is not None
    assert [len(section.rows) for section in matrix_sections(broken.sequence)] == [3, 1, 3, 3]
    cells = [measure_cells(row) for row in measure_sections(broken)[0].rows]
    assert cells[1] == ("replay", "broke off", "-", "-")
    assert describe_sequence(broken)[-1] == (
        "The sequence broke off for replay under seed 0 (task 2 of 3, office: the loss or gradient of step 4 was not a "
        "finite number): the arm has no measures."
    )
    assert "replay" not in describe_sequence(broken)[1]


def test_what_came_back_is_told_only_where_something_was_forgotten(comparison: Comparison) -> None:
    ((text, entries),) = list_relearned(comparison)
    assert (text, [entry.arm for entry in entries]) == ("english", list(WAYS))
    plain, replay, _ = map(relearning_cells, entries)
    assert plain[1].startswith("+0.1000 [")
    assert plain[2].startswith("+0.0200 [")
    assert plain[3:] == ("80.0 %", "control")
    assert replay[3] == "-"
    assert describe_relearning(comparison) == (
        "Of what was forgotten of english, 10 steps on old text bring back: plain 80.0 %. What comes back so soon was "
        "not gone (spurious forgetting). For replay and packnet no forgetting can be told from zero.",
    )
    nothing = comparison.model_copy(update={"relearning": comparison.relearning[1:]})
    assert describe_relearning(nothing) == (
        "No arm has demonstrably forgotten english, so relearning it says nothing.",
    )


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(comparison: Comparison, width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    for table in (*render_sequence(comparison, width=width), *render_relearning(comparison, width=width)):
        assert table.title
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "packnet, told the task" in text


def test_the_training_losses_of_the_tasks_follow_one_another(comparison: Comparison) -> None:
    rows = [row for row in loss_rows(comparison) if (row["arm"], row["seed"]) == ("plain", 0)]
    assert [row["step"] for row in rows] == list(range(5, 3 * 90 + 5, 5))  # 90 steps a task, every fifth logged


def test_the_page_shows_all_of_it(comparison: Comparison) -> None:
    page = render_report(comparison=comparison)
    for fragment in ('id="after-each-task"', 'id="sequence-measures"', 'id="relearning"', "packnet, told the task"):
        assert fragment in page
    assert page.count('<span class="decided">2.7000</span>') == 1


def test_without_a_sequence_nothing_is_shown() -> None:
    plain = make_demo_comparison()
    assert (render_sequence(plain), render_relearning(plain), describe_sequence(plain)) == ([], [], ())
    assert 'id="after-each-task"' not in render_report(comparison=plain)
