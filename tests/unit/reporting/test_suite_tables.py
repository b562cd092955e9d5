from __future__ import annotations

from io import StringIO

from rich.console import Console

from oblong.evaluation.task_changes import compute_task_changes
from oblong.records import TaskChange
from oblong.reporting.suite_tables import (
    answer_cells,
    change_cells,
    describe_answers,
    describe_task_changes,
    render_answers,
    render_suite,
    render_task_changes,
)
from tests.report_builders import make_interval
from tests.suite_builders import make_task_score
from tests.sweep_builders import SweptArm, make_sweep

LOST = TaskChange(
    arm="tuned",
    task="cities",
    num_seeds=1,
    num_kept=50,
    num_lost=20,
    num_gained=5,
    num_missed=25,
    difference=make_interval(-0.15, 0.1),
    p_value=0.004,
    adjusted_p_value=0.008,
)
SAME = LOST.model_copy(
    update={
        "task": "sums",
        "num_lost": 0,
        "num_gained": 0,
        "num_missed": 50,
        "difference": None,
        "p_value": 1.0,
        "adjusted_p_value": 1.0,
    }
)
TOGETHER = LOST.model_copy(update={"task": "all tasks", "adjusted_p_value": None})


def print_to_text(renderable: object) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_cells() -> None:
    assert change_cells(LOST) == ("70.0 → 55.0 %", "-15.0 [-25.0, -5.0]", "20", "5", "0.004", "0.008")
    assert change_cells(SAME) == ("50.0 → 50.0 %", "no change", "0", "0", "1", "1")
    assert change_cells(TOGETHER.model_copy(update={"p_value": 1e-9}))[-2:] == ("< 0.0001", "-")


def test_what_is_significant_is_said_and_what_is_not_is_not_called_equal() -> None:
    assert describe_task_changes([LOST, SAME, TOGETHER]) == (
        "cities got worse: 20 of 100 answers were lost and 5 gained (p = 0.008).",
        "On sums no change of accuracy can be told from chance, which does not show that there is none.",
        "These p-values are adjusted for 2 tasks (Holm).",
        "Over all tasks, 20 of 100 answers were lost and 5 gained: more lost than gained (p = 0.004).",
    )


def test_gains_and_seeds_are_named() -> None:
    gained = LOST.model_copy(update={"num_lost": 5, "num_gained": 20, "num_seeds": 2})
    (sentence,) = describe_task_changes([gained])
    assert sentence == "cities got better: 5 of 100 answers were lost and 20 gained under 2 seeds (p = 0.008)."
    (unclear,) = describe_task_changes([TOGETHER.model_copy(update={"p_value": 0.3})])
    assert unclear.endswith("no difference can be told from chance (p = 0.3).")


def test_every_arm_has_its_paragraph() -> None:
    other = LOST.model_copy(update={"arm": "other"})
    first, second = describe_answers([LOST, TOGETHER, other])
    assert first.startswith("tuned: cities got worse")
    assert "Over all tasks" in first
    assert second == "other: cities got worse: 20 of 100 answers were lost and 5 gained (p = 0.008)."


def test_tables_show_every_task() -> None:
    suite = {"[b]cities": make_task_score([1, 1, 1, 0]), "sums": make_task_score([1, 0], metric="acc_norm")}
    text = print_to_text(render_suite(suite, {"[b]cities": (0.301, 0.954), "sums": (0.1, 0.9)}))
    assert "[b]cities" in text
    assert "75.0 %" in text
    assert "[30.1, 95.4]" in text
    assert "acc_norm" in text
    changes = compute_task_changes(suite, [suite], arm="same")
    text = print_to_text(render_task_changes(changes, title="before and after"))
    assert "all tasks" in text
    assert "no change" in text
    assert " same " not in text  # one model needs no column


def test_in_a_comparison_every_row_says_whether_its_arm_is_data_free() -> None:
    changes = (LOST.model_copy(update={"arm": "ewc"}), LOST.model_copy(update={"arm": "random"}))
    comparison = make_sweep({"ewc": SweptArm(cost=0.1), "random": SweptArm(cost=0.2)}).model_copy(
        update={"answers": changes, "data_free": {"ewc": False, "random": True}}
    )
    assert [answer_cells(comparison, change)[:3] for change in changes] == [
        ("ewc", "no", "cities"),
        ("random", "yes", "cities"),
    ]
    wide = print_to_text(render_answers(comparison, width=120))
    assert "-15.0 [-25.0, -5.0]" in wide
    narrow = print_to_text(render_answers(comparison, width=72))
    assert max(len(line) for line in narrow.split("Lost:")[0].splitlines()) <= 72
    assert all(word in narrow for word in ("free", "[-25.0, -5.0]", "0.008"))
