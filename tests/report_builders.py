"""Seeded synthetic runs, evaluations and comparisons of them, of a plausible size, but nobody's result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from oblong.records import (
    ArmRun,
    Change,
    Comparison,
    CorpusScore,
    DataSource,
    DocumentScore,
    Drift,
    Evaluation,
    Interval,
    Plan,
    Run,
    RunStatus,
    Scan,
    TrainingPoint,
)
from tests.scan_builders import make_plan, make_provenance, make_scan

NEW_DOMAIN = "german help"
GENERAL = ("english prose", "python code")
ARMS = ("kappa-lowest", "kappa-highest", "kappa-lowest-within-role", "random")
CONTROL = "random"


def make_interval(mean: float, half_width: float = 0.01, *, confidence: float = 0.95) -> Interval:
    """A symmetric interval."""
    return Interval(
        mean=mean, low=mean - half_width, high=mean + half_width, confidence=confidence, num_resamples=10_000
    )


def make_corpus(name: str, loss: float, *, num_documents: int = 40, kl: float | None = 0.02) -> CorpusScore:
    """A corpus whose every document has the given loss (nats per token)."""
    documents = tuple(
        DocumentScore(nll=loss * 200, num_tokens=200, num_bytes=700, kl=None if kl is None else kl * 200)
        for _ in range(num_documents)
    )
    data = DataSource(
        name=name,
        source=f"bundled:{name.split()[0]}",
        digest="sha256:" + "3c" * 32,
        num_documents=num_documents,
        num_bytes=700 * num_documents,
    )
    return CorpusScore(data=data, new_domain=name == NEW_DOMAIN, documents=documents)


def make_evaluation(
    name: str,
    losses: Mapping[str, float],
    *,
    num_documents: int = 40,
    drift: bool = True,
) -> Evaluation:
    """An Evaluation with one corpus per entry of `losses`."""
    kl = 0.0 if not drift else 0.02
    return Evaluation(
        name=name,
        model="demo",
        window=512,
        stride=256,
        dtype="bfloat16",
        corpora={
            corpus: make_corpus(corpus, loss, num_documents=num_documents, kl=kl) for corpus, loss in losses.items()
        },
        drift=Drift(
            num_changed_tensors=43, num_parameters_in_changed=10_600_000, fraction_moved=0.93, relative_change=0.011
        )
        if drift
        else None,
        seconds=31.5,
        provenance=make_provenance("oblong", "evaluate"),
    )


def make_run(arm: str, plan: Plan, *, seed: int, status: RunStatus = RunStatus.COMPLETED, final: float = 2.5) -> Run:
    """A Run whose training loss falls from 3.0 to `final`, with some noise."""
    generator = np.random.default_rng([seed, len(arm)])
    history = tuple(
        TrainingPoint(
            step=step,
            loss=final + (3.0 - final) * math.exp(-step / 30) + 0.03 * float(generator.normal()),
            learning_rate=2e-4,
            gradient_norm=1.0,
        )
        for step in range(5, 95, 5)
    )
    return Run(
        name=f"{arm}-s{seed}",
        model="demo",
        plan_name=plan.name,
        plan_digest=plan.digest(),
        recipe={"learning_rate": 2e-4, "steps": 90},
        data=DataSource(
            name=NEW_DOMAIN, source="bundled:german", digest="sha256:" + "4d" * 32, num_documents=120, num_bytes=400_000
        ),
        seed=seed,
        status=status,
        num_trainable=plan.totals.num_parameters,
        num_parameters=134_515_008,
        num_steps=90,
        num_tokens=46_080,
        seconds=61.0 + seed,
        tokens_per_second=755.0,
        peak_memory_bytes=1_250_000_000,
        history=history,
        delta="delta",
        provenance=make_provenance("oblong", "tune"),
    )


DEMO_BASE: Mapping[str, float] = {NEW_DOMAIN: 2.9991, "english prose": 3.9432, "python code": 2.3388}
DEMO_CHANGES: Mapping[str, Mapping[str, float]] = {
    "kappa-lowest": {NEW_DOMAIN: -0.477, "english prose": 0.0285, "python code": 0.0350},
    "kappa-highest": {NEW_DOMAIN: -0.362, "english prose": 0.0301, "python code": 0.0254},
    "kappa-lowest-within-role": {NEW_DOMAIN: -0.457, "english prose": 0.0109, "python code": 0.0019},
    "random": {NEW_DOMAIN: -0.401, "english prose": 0.0125, "python code": 0.0034},
}
DEMO_HALF_WIDTH: Mapping[str, float] = {NEW_DOMAIN: 0.031, "english prose": 0.0082, "python code": 0.0071}


def make_demo_comparison(scan: Scan | None = None, *, seeds: Sequence[int] = (0, 1)) -> Comparison:
    """Four arms x two seeds x three corpora, numbers of a plausible size."""
    return make_comparison(DEMO_CHANGES, half_widths=DEMO_HALF_WIDTH, seeds=seeds, scan=scan)


def make_comparison(
    changes: Mapping[str, Mapping[str, float]],
    *,
    half_widths: Mapping[str, float] | None = None,
    seeds: Sequence[int] = (0, 1),
    control: str = CONTROL,
    num_documents: int = 40,
    diverged: Sequence[str] = (),
    scan: Scan | None = None,
) -> Comparison:
    """A Comparison whose changes have exactly the given means; the intervals are symmetric.

    Args:
        changes: arm -> corpus -> mean change of loss, nats per token; the first corpus is the new domain.
        half_widths: corpus -> half width of the change's interval (default 0.01); against the control it is the same.
        seeds: seeds of every arm.
        control: the arm that the others are compared with.
        num_documents: documents per corpus.
        diverged: arms whose runs diverged.
        scan: the Scan that the plans are drawn from.
    """
    widths = half_widths or {}
    scan = scan or make_scan()
    plans = {arm: _plan_for(arm, scan) for arm in changes}
    base = {corpus: DEMO_BASE.get(corpus, 3.0) for corpus in next(iter(changes.values()))}
    runs = []
    for arm, by_corpus in changes.items():
        for position, seed in enumerate(seeds):
            jitter = 0.004 * (position - (len(seeds) - 1) / 2)
            losses = {corpus: base[corpus] + change + jitter for corpus, change in by_corpus.items()}
            status = RunStatus.DIVERGED if arm in diverged else RunStatus.COMPLETED
            run = make_run(arm, plans[arm], seed=seed, status=status, final=losses[NEW_DOMAIN])
            evaluation = make_evaluation(arm, losses, num_documents=num_documents)
            runs.append(ArmRun(arm=arm, seed=seed, run=run, evaluation=evaluation))
    return Comparison(
        name="german",
        model="demo",
        control=control,
        recipe={"arms": list(changes), "seeds": list(seeds)},
        plans=plans,
        base=make_evaluation("base", base, num_documents=num_documents, drift=False),
        runs=tuple(runs),
        changes=tuple(
            Change(
                arm=arm,
                corpus=corpus,
                before=base[corpus],
                after=base[corpus] + change,
                difference=make_interval(change, widths.get(corpus, 0.01)),
                against_control=None
                if arm == control or control not in changes
                else make_interval(change - changes[control][corpus], widths.get(corpus, 0.01)),
            )
            for arm, by_corpus in changes.items()
            for corpus, change in by_corpus.items()
        ),
        provenance=make_provenance("oblong", "compare", "recipe.yaml"),
    )


def _plan_for(arm: str, scan: Scan) -> Plan:
    criterion = "random" if "random" in arm else "kappa"
    order = "highest" if "highest" in arm else "lowest"
    within = "role" if "within-role" in arm else "model"
    return make_plan(arm, scan, criterion=criterion, order=order, within=within, seed=len(arm))
