"""A Comparison put into plain language, claiming no more than its intervals allow; the rules are in `verdicts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from oblong.records import Change, Comparison, Interval
from oblong.reporting.arms import SEEDS_THAT_SHOW_VARIATION, num_seeds
from oblong.reporting.comparison_tables import CostRow, cost_rows
from oblong.reporting.formats import format_interval, format_parameters
from oblong.reporting.gain_reading import describe_gains, describe_sweep_fairness, describe_sweep_limits
from oblong.reporting.noise_floors import find_noise_floor, has_noise, list_noise_floors
from oblong.reporting.relearning_tables import describe_relearning
from oblong.reporting.sequence_reading import describe_sequence
from oblong.reporting.significance import describe_significance
from oblong.reporting.verdicts import (
    ALL_NOISE,
    UNTOLD,
    Direction,
    changes_on,
    decide,
    decide_from_base,
    gaps_of,
    general_corpora,
    join_names,
    new_domains,
    rivals,
    verdict,
)

UNEQUAL_BUDGETS: Final = 1.05  # a heuristic: plans fill a budget with whole tensors and land a few percent apart


class Topic(StrEnum):
    """What a statement is about; the page groups statements by it."""

    SEQUENCE = "Task by task"
    GAIN = "At the same gain"
    LEARNED = "What was learned"
    KEPT = "What became of the rest"
    RELEARNED = "What comes back"
    CONTROL = "Against the control"
    SIGNIFICANCE = "What is significant"
    FAIRNESS = "Is the comparison fair?"
    LIMITS = "What this cannot say"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One or two sentences about one thing."""

    topic: Topic
    text: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The headline, in a few short paragraphs, and the statements behind it."""

    headline: tuple[str, ...]
    statements: tuple[Statement, ...]

    @property
    def brief(self) -> tuple[str, ...]:
        """The headline with what qualifies it, for a terminal."""
        at_gain = (Topic.GAIN,) if self.about(Topic.GAIN) else (Topic.SIGNIFICANCE,)
        topics = (Topic.SEQUENCE, *at_gain, Topic.RELEARNED, Topic.FAIRNESS, Topic.LIMITS)
        return (*self.headline, *(text for topic in topics for text in self.about(topic)))

    def about(self, topic: Topic) -> tuple[str, ...]:
        """The texts on one topic."""
        return tuple(statement.text for statement in self.statements if statement.topic is topic)


def read_comparison(comparison: Comparison) -> Reading:
    """Put a Comparison into words."""
    at_gain = describe_gains(comparison)
    statements = [
        *(_statement(Topic.SEQUENCE, text) for text in describe_sequence(comparison)[1:]),
        *(_statement(Topic.GAIN, " ".join(paragraphs)) for paragraphs in at_gain[1:]),
        *(_statement(Topic.LEARNED, describe_changes(comparison, corpus)) for corpus in new_domains(comparison)),
        *(_statement(Topic.KEPT, describe_changes(comparison, corpus)) for corpus in general_corpora(comparison)),
        *(_statement(Topic.RELEARNED, text) for text in describe_relearning(comparison)),
        *(() if at_gain else _read_ends(comparison)),
        *(_statement(Topic.FAIRNESS, text) for text in describe_fairness(comparison)),
        *(_statement(Topic.LIMITS, text) for text in describe_limits(comparison)),
    ]
    return Reading(headline=compose_headline(comparison), statements=tuple(statements))


def _read_ends(comparison: Comparison) -> Iterator[Statement]:
    """The arms against the control where training ended: without a sweep there is nothing fairer."""
    yield from (_statement(Topic.CONTROL, text) for text in describe_rivals(comparison))
    yield from (_statement(Topic.SIGNIFICANCE, text) for text in describe_significance(comparison))


def _statement(topic: Topic, text: str) -> Statement:
    return Statement(topic=topic, text=text)


# --- what changed from the base -----------------------------------------------------------------------------------


def describe_changes(comparison: Comparison, corpus: str) -> str:
    """Each arm's change from the base on one corpus."""
    changes = changes_on(comparison, corpus)
    kind = "new domain" if comparison.base.corpora[corpus].new_domain else "general text"
    place = f"On {corpus} ({kind}, {_documents(comparison, corpus)})"
    directions = {decide_from_base(comparison, change) for change in changes}
    if directions == {Direction.UNDECIDED}:
        return f"{place} no arm's change of loss is distinguishable from zero."
    if len(directions) == 1 and Direction.BELOW_NOISE not in directions:
        verb = "improved: its loss fell" if Direction.LOWER in directions else "got worse: its loss rose"
        return f"{place} {_every_arm(changes)} {verb} by {_range(changes)} nats per token."
    groups = (_group(comparison, changes, direction) for direction in Direction if direction in directions)
    return f"{place} {'; '.join(groups)}."


def _group(comparison: Comparison, changes: Sequence[Change], direction: Direction) -> str:
    members = [change for change in changes if decide_from_base(comparison, change) is direction]
    if direction is Direction.BELOW_NOISE:
        return f"for {join_names(change.arm for change in members)} the change is below the noise floor"
    if direction is Direction.UNDECIDED:
        return f"for {join_names(change.arm for change in members)} the interval holds zero"
    verb = "improved" if direction is Direction.LOWER else "got worse"
    return f"{join_names(f'{change.arm} ({change.difference.mean:+.4f})' for change in members)} {verb}"


def _every_arm(changes: Sequence[Change]) -> str:
    return changes[0].arm if len(changes) == 1 else "every arm"


def _range(changes: Sequence[Change]) -> str:
    ordered = sorted(changes, key=lambda change: abs(change.difference.mean))
    least, most = ordered[0], ordered[-1]
    if len(ordered) == 1:
        return f"{abs(most.difference.mean):.4f}"
    return f"{abs(least.difference.mean):.4f} ({least.arm}) to {abs(most.difference.mean):.4f} ({most.arm})"


# --- against the control ------------------------------------------------------------------------------------------


def describe_rivals(comparison: Comparison) -> tuple[str, ...]:
    """Each arm against the control, corpus by corpus, with what follows from all corpora together."""
    return tuple(_describe_rival(comparison, arm) for arm in rivals(comparison))


def _describe_rival(comparison: Comparison, arm: str) -> str:
    compared = gaps_of(comparison, arm)
    if not compared:
        return f"{arm}: no comparison with the control ({comparison.control}) is recorded."
    details = "; ".join(_describe_difference(comparison, change, gap) for change, gap in compared)
    return f"{arm} minus {comparison.control}, nats per token: {details}. Taken together: {verdict(comparison, arm)}."


def _describe_difference(comparison: Comparison, change: Change, gap: Interval) -> str:
    meaning = {
        Direction.LOWER: "a lower loss",
        Direction.HIGHER: "a higher loss",
        Direction.UNDECIDED: f"not distinguishable from zero with {_documents(comparison, change.corpus)} and "
        f"{_seeds(comparison)}",
        Direction.BELOW_NOISE: "below the noise floor, so not worth a claim",
    }
    alone = Direction.of(gap, find_noise_floor(comparison, [change.corpus]))
    rest = "" if decide(comparison, change) is alone else " taken by itself, not significant among so many arms"
    return f"on {change.corpus} {format_interval(gap)}, {meaning[alone]}{rest}"


# --- fairness and limits ------------------------------------------------------------------------------------------


def describe_fairness(comparison: Comparison) -> tuple[str, ...]:
    """Whether the arms learned equally much, were swept alike and trained equally many parameters."""
    if comparison.retention:
        gains = [*describe_sweep_fairness(comparison)]
    else:
        gains = [_describe_gain(comparison, corpus) for corpus in new_domains(comparison)]
    return tuple(text for text in (*gains, _describe_budgets(cost_rows(comparison))) if text)


def _describe_gain(comparison: Comparison, corpus: str) -> str:
    changes = changes_on(comparison, corpus)
    floor = find_noise_floor(comparison, [corpus])
    directions = [Direction.of(change.against_control, floor) for change in changes if change.against_control]
    if not directions:
        return ""
    if any(direction.is_decided for direction in directions):
        final = [change.after for change in changes]
        return (
            f"The arms did not learn equally much: on {corpus} their losses ended between {min(final):.4f} and "
            f"{max(final):.4f}. Forgetting tends to grow with learning, so ranking the arms by forgetting alone is "
            "not fair; compare them at the same gain."
        )
    return (
        f"No arm's final loss on {corpus} is distinguishable from the control's, so forgetting is compared with the "
        "control at about the same gain, as far as these intervals tell."
    )


def _describe_budgets(rows: Sequence[CostRow]) -> str:
    least = min(rows, key=lambda row: row.num_trainable)
    most = max(rows, key=lambda row: row.num_trainable)
    if most.num_trainable <= UNEQUAL_BUDGETS * least.num_trainable:
        return ""
    return (
        f"The arms do not train equally many parameters: from {format_parameters(least.num_trainable)} ({least.arm}) "
        f"to {format_parameters(most.num_trainable)} ({most.arm}). A difference between arms may come from that."
    )


def describe_limits(comparison: Comparison) -> tuple[str, ...]:
    """What the reader must not conclude."""
    if comparison.retention:
        texts = (*describe_sweep_limits(comparison), _describe_noise(comparison), _describe_seeds(comparison))
        return tuple(text for text in texts if text)
    texts = (
        _describe_noise(comparison),
        _describe_diverged(cost_rows(comparison)),
        _describe_seeds(comparison),
        _describe_chance(comparison),
        "Each arm stands for one setting of learning rate and training length; at another setting the arms may come "
        "in another order.",
    )
    return tuple(text for text in texts if text)


def _describe_diverged(rows: Sequence[CostRow]) -> str:
    diverged = [f"{row.arm} ({row.num_diverged} of {row.num_runs} runs)" for row in rows if row.num_diverged]
    return f"Training diverged in {join_names(diverged)}; its numbers describe a broken model." if diverged else ""


def _describe_noise(comparison: Comparison) -> str:
    if not comparison.noise_floors:
        return ""
    if not has_noise(comparison):
        return "Evaluations of the base itself with other batch sizes agree exactly: the noise floor is zero."
    return (
        "Two evaluations of the base itself, with other batch sizes, differ by up to the noise floor "
        f"({list_noise_floors(comparison)} nats per token, in 95 of 100 cases); no claim is made of a smaller "
        "difference."
    )


def _describe_seeds(comparison: Comparison) -> str:
    count = num_seeds(comparison)
    if count == 1:
        return "One seed: nothing here speaks about seed-to-seed variation."
    if count < SEEDS_THAT_SHOW_VARIATION:
        return f"{count} seeds: the intervals speak about the choice of documents, not about seed-to-seed variation."
    return f"{count} seeds: the intervals speak about the choice of documents and of seeds."


def _describe_chance(comparison: Comparison) -> str:
    gaps = [change.against_control for change in comparison.changes if change.against_control is not None]
    if len(gaps) < 2 or any(change.adjusted_p_value is not None for change in comparison.changes):
        return ""
    expected = sum(1 - gap.confidence for gap in gaps)
    return (
        f"{len(gaps)} intervals against the control are shown. If no arm differed from it at all, about "
        f"{expected:.1f} of them would still exclude zero by chance."
    )


# --- the headline -------------------------------------------------------------------------------------------------


def compose_headline(comparison: Comparison) -> tuple[str, ...]:
    """A few short sentences: who differs from the control, what was learned and kept, on how many seeds.

    Of a sweep it is what was forgotten at the same gain that leads.
    """
    learned = [
        _count_sentence(comparison, corpus, Direction.LOWER, "improved on") for corpus in new_domains(comparison)
    ]
    kept = [
        _count_sentence(comparison, corpus, Direction.HIGHER, "got worse on") for corpus in general_corpora(comparison)
    ]
    seeds = f"All of this rests on {_seeds(comparison)}." if num_seeds(comparison) < SEEDS_THAT_SHOW_VARIATION else ""
    way = describe_sequence(comparison)[:1]
    if comparison.retention:
        texts = (*way, *describe_gains(comparison)[0], seeds)
    else:
        texts = (*way, " ".join((*learned, *kept)), _headline_control(comparison), seeds)
    return tuple(text for text in texts if text)


def _count_sentence(comparison: Comparison, corpus: str, direction: Direction, verb: str) -> str:
    changes = changes_on(comparison, corpus)
    directions = [decide_from_base(comparison, change) for change in changes]
    undecided = [found for found in directions if not found.is_decided]
    rest = f"; for {len(undecided)} it cannot be told" if undecided and len(changes) > 1 else ""
    return f"{_count(directions.count(direction), len(changes))} {verb} {corpus}{rest}."


def _count(part: int, whole: int) -> str:
    if whole == 1:
        return "The one arm" if part else "The one arm has not demonstrably"
    if part == whole:
        return "Both arms" if whole == 2 else f"All {whole} arms"
    return f"{part} of {whole} arms" if part else "No arm demonstrably"


def _headline_control(comparison: Comparison) -> str:
    clauses: dict[str, list[str]] = {}
    for arm in rivals(comparison):
        if gaps_of(comparison, arm):
            clauses.setdefault(verdict(comparison, arm), []).append(arm)
    if not clauses:
        return ""
    if list(clauses) == [f"{UNTOLD} from these intervals"]:
        return f"No arm's difference to the control, {comparison.control}, can be told from zero."
    texts = [_headline_clause(join_names(arms), clause) for clause, arms in clauses.items()]
    return f"Against the control, {comparison.control}: {'; '.join(texts)}."


def _headline_clause(arms: str, clause: str) -> str:
    return f"for {arms} {clause}" if clause.startswith((UNTOLD, ALL_NOISE)) else f"{arms} {clause}"


def _documents(comparison: Comparison, corpus: str) -> str:
    return _plural(len(comparison.base.corpora[corpus].documents), "document")


def _seeds(comparison: Comparison) -> str:
    return _plural(num_seeds(comparison), "seed")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
