"""The live table: readable at 80 columns whatever the number of runs, and right in what it says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from oblong.cli.matrix_rows import MatrixRow, describe_outcome, list_rows, render_rows
from oblong.comparing.jobs import Job, JobProgress, LossChanges

RATES = ("2e-05", "1e-04", "5e-04")
WAITING = JobProgress(stage="waiting", done=0, total=1)


def make_job(arm: str, rate: str | None, seed: int) -> Job:
    return Job(
        arm=arm,
        seed=seed,
        folder=f"{arm}/{rate}/{seed}",
        model="demo",
        tune=None if rate is None else {},
        corpora={},
        window=4,
        stride=4,
        divergence=False,
        threads=1,
        rate_name=rate,
    )


def make_done(new_domain: float, retention: float | None = 0.01) -> JobProgress:
    changes = LossChanges(step=60, new_domain=new_domain, retention=retention)
    return JobProgress(stage="done", done=1, total=1, changes=changes)


def list_arm(arm: str, progress: dict[tuple[str, int], JobProgress]) -> list[tuple[Job, JobProgress]]:
    return [(make_job(arm, rate, seed), progress.get((rate, seed), WAITING)) for rate in RATES for seed in range(3)]


def test_finished_arms_fold_running_ones_unfold_and_waiting_ones_share_a_row() -> None:
    finished = {(rate, seed): make_done(-0.1 * place) for place, rate in enumerate(RATES) for seed in range(3)}
    running = {
        **{("2e-05", seed): make_done(-0.2 - 0.1 * seed, 0.02) for seed in range(3)},
        ("1e-04", 0): JobProgress(stage="tuning", done=33, total=60, changes=make_done(-0.5, -0.04).changes),
        ("1e-04", 1): JobProgress(stage="evaluating", done=330, total=1000),
    }
    jobs = [(make_job("base", None, 0), JobProgress(stage="done", done=1, total=1))]
    jobs += list_arm("first", finished) + list_arm("second", running) + list_arm("third", {}) + list_arm("last", {})
    rows = list(list_rows(jobs))
    assert [(row.arm, row.rate, row.runs, row.state) for row in rows] == [
        ("base", "", "1/1", "done"),
        ("first", "best 5e-04", "9/9", "done"),
        ("second", "2e-05", "3/3", "done"),
        ("second", "1e-04", "0/3", "step 33/60"),
        ("second", "5e-04", "0/3", "waiting"),
        ("2 more arms", "", "0/18", "waiting"),
    ]
    assert rows[1].new_domain == pytest.approx(-0.2)
    assert rows[2].new_domain == pytest.approx(-0.3)
    assert (rows[3].new_domain, rows[3].retention) == (-0.5, -0.04)
    assert list(list_rows(list_arm("third", {}))) == [MatrixRow(arm="third", rate="", runs="0/9", state="waiting")]


def test_forty_runs_fit_into_80_columns_and_a_screen() -> None:
    jobs = [entry for index in range(12) for entry in list_arm(f"kappa-lowest-within-role-and-shape-{index}", {})]
    running = {("2e-05", 0): JobProgress(stage="evaluating", done=330, total=1000, changes=make_done(-1.25).changes)}
    jobs = list_arm("a-quite-long-name-of-an-arm-under-way", running) + jobs
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(render_rows(list_rows(jobs)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 5
    assert all(len(line) <= 80 for line in lines)
    assert "2e-05" in lines[1]
    assert "-1.250" in lines[1]
    assert "evaluating 33%" in lines[1]


def test_a_finished_run_in_one_line() -> None:
    job = make_job("ewc", "1e-04", 2)
    assert describe_outcome(job, make_done(-0.25)) == "ewc, lr 1e-04, seed 2: new -0.250, kept +0.010"
    assert describe_outcome(job, make_done(-0.25, None)) == "ewc, lr 1e-04, seed 2: new -0.250"
    assert describe_outcome(make_job("base", None, 0), WAITING) == "base"
    diverged = make_done(0.5).model_copy(update={"detail": "diverged"})
    assert describe_outcome(job, diverged) == "ewc, lr 1e-04, seed 2: new +0.500, kept +0.010 (diverged)"
