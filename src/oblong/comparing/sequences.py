"""The runs of a sequence of tasks become its matrices and measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from oblong.comparing.contrasts import choose_learning_rates
from oblong.evaluation.sequence_intervals import PerState, measure_sequences
from oblong.records import ArmRun, ArmSequence, CorpusScore, Evaluation, SequenceMeasures, TaskSequence

Row = Mapping[str, CorpusScore]
"""The texts after one task, by name."""


class Way(NamedTuple):
    """One arm's way through the tasks, told the task of a text or not; rows by seed and task."""

    arm: str
    told: bool
    rows: Sequence[Sequence[Row]]


def describe_sequence(
    base: Evaluation, runs: Sequence[ArmRun], tasks: Sequence[str], *, control: str
) -> TaskSequence | None:
    """The matrices and measures of every arm; None where there are no tasks.

    Of a sweep the learning rate that learned most stands for each arm. An arm one of whose sequences broke off has its
    matrices, and no measures.

    Args:
        base: the Evaluation before the first task.
        runs: every arm with every learning rate and seed.
        tasks: names, in the order of learning.
        control: name of the control arm.
    """
    if not tasks:
        return None
    kept = tuple(name for name in base.corpora if name not in tasks)
    texts = (*tasks, *kept)
    rates = choose_learning_rates(runs)
    chosen = {arm: _by_seed([r for r in runs if (r.arm, r.learning_rate) == (arm, rates[arm])]) for arm in rates}
    ways = [way for arm, found in chosen.items() for way in _iter_ways(arm, found)]
    measured = _measure(base, ways, tasks, control)
    return TaskSequence(
        tasks=tuple(tasks),
        kept=kept,
        base=tuple(base.corpora[text].loss for text in texts),
        arms=tuple(
            ArmSequence(
                arm=way.arm,
                told=way.told,
                learning_rate=rates[way.arm],
                seeds=tuple(run.seed for run in chosen[way.arm]),
                losses=tuple(tuple(tuple(row[text].loss for text in texts) for row in rows) for rows in way.rows),
                measures=measured.get((way.arm, way.told)),
            )
            for way in ways
        ),
    )


def _measure(
    base: Evaluation, ways: Sequence[Way], tasks: Sequence[str], control: str
) -> dict[tuple[str, bool], SequenceMeasures]:
    """The measures of the ways that lead to the end; who is told the task knows more than the control."""
    before = [base.corpora[task].documents for task in tasks]
    measured: dict[tuple[str, bool], SequenceMeasures] = {}
    for told in (False, True):
        whole = {
            way.arm: [_collect(rows, tasks) for rows in way.rows]
            for way in ways
            if way.told is told and all(len(rows) == len(tasks) for rows in way.rows)
        }
        found = measure_sequences(whole, before, control="" if told else control)
        measured |= {(arm, told): measures for arm, measures in found.items()}
    return measured


def _collect(rows: Sequence[Row], tasks: Sequence[str]) -> PerState:
    return [[row[task].documents for task in tasks] for row in rows]


def _iter_ways(arm: str, runs: Sequence[ArmRun]) -> Iterator[Way]:
    """Without being told the task, and told where that was measured."""
    learned = [[task for task in run.tasks if task.evaluation is not None] for run in runs]
    untold = [[task.evaluation.corpora for task in tasks if task.evaluation is not None] for tasks in learned]
    yield Way(arm=arm, told=False, rows=untold)
    if any(task.told for tasks in learned for task in tasks):
        told = [[task.told.corpora if task.told else {} for task in tasks] for tasks in learned]
        pairs = [zip(*of_seed, strict=True) for of_seed in zip(untold, told, strict=True)]
        rows = [[{**row, **known} for row, known in of_seed] for of_seed in pairs]
        yield Way(arm=arm, told=True, rows=rows)


def _by_seed(runs: Sequence[ArmRun]) -> list[ArmRun]:
    return sorted(runs, key=lambda run: run.seed)
