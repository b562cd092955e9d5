"""Sweeps: which states make a curve, how texts are pooled, and where arms are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from oblong.comparing.contrasts import compute_changes
from oblong.comparing.retention import compare_retention
from oblong.records import (
    ArmRun,
    CorpusScore,
    DataSource,
    DocumentScore,
    EvaluatedState,
    Evaluation,
    Provenance,
    Reach,
    Retention,
)
from tests.report_builders import make_demo_comparison

NEW = "german"
TOKENS = {NEW: (10, 30, 20), "english": (100, 300, 200), "code": (4, 2, 6)}
BASE = {NEW: 3.0, "english": 2.0, "code": 1.0}
Losses = Mapping[str, float]


def make_evaluation(losses: Losses) -> Evaluation:
    return Evaluation(
        name="x",
        model="m",
        window=4,
        stride=4,
        dtype="float32",
        corpora={
            name: CorpusScore(
                data=DataSource(name=name, source="-", digest="sha256:0", num_documents=3, num_bytes=9),
                new_domain=name == NEW,
                documents=tuple(
                    DocumentScore(nll=count * losses[name], num_tokens=count, num_bytes=count) for count in tokens
                ),
            )
            for name, tokens in TOKENS.items()
        },
        seconds=0.0,
        provenance=Provenance.here(),
    )


def make_run(arm: str, rate: float, seed: int, path: Mapping[int, tuple[float, float, float]]) -> ArmRun:
    """A run whose losses lie above the base's by (new, english, code) at each step."""
    states = tuple(
        EvaluatedState(
            step=step,
            evaluation=make_evaluation(
                {name: BASE[name] + change for name, change in zip(TOKENS, changes, strict=True)}
            ),
        )
        for step, changes in path.items()
    )
    run = make_demo_comparison().runs[0].run
    return ArmRun(
        arm=arm, seed=seed, learning_rate=rate, run=run, evaluation=states[-1].evaluation, states=states, stopped=None
    )


def compare(runs: Sequence[ArmRun], gain: float | None = None) -> dict[tuple[str, ...], Retention]:
    found = compare_retention(make_evaluation(BASE), runs, control="control", gain=gain)
    assert {retention.measure for retention in found} <= {"loss"}
    return {retention.corpora: retention for retention in found}


CONTROL = [
    make_run("control", 1e-4, 0, {20: (-0.2, 0.01, 0.03), 40: (-0.4, 0.02, 0.06)}),
    make_run("control", 1e-3, 0, {20: (-0.5, 0.20, 0.40), 40: (-0.6, 0.30, 0.50)}),
]


def test_forgetting_is_read_off_the_curves_and_every_corpus_weighs_the_same() -> None:
    arm = [make_run("arm", 1e-4, 0, {20: (-0.4, 0.0, 0.1), 40: (-0.8, 0.1, 0.3)})]
    found = compare([*CONTROL, *arm], gain=0.3)
    assert list(found) == [("english", "code"), ("english",), ("code",)]
    pooled = {entry.arm: entry for entry in found["english", "code"].arms}
    # At a gain of 0.3: the control's slow curve is half way between steps 20 and 40, (0.02 + 0.04) / 2 = 0.03, which
    # beats 0.6 of the fast one's first point; the arm's is at 0.75 of its first point, 0.75 * (0.0 + 0.1) / 2 = 0.0375.
    expected = {"control": 0.03, "arm": 0.0375}
    for name, entry in pooled.items():
        assert entry.at_gain is not None
        assert entry.at_gain.forgetting is not None
        assert entry.at_gain.forgetting.mean == pytest.approx(expected[name])
        assert entry.at_gain.settings == ("1e-04",)
    against = pooled["arm"].against_control
    assert against is not None
    assert against.forgetting is not None
    assert against.forgetting.mean == pytest.approx(0.0075)
    assert against.adjusted_p_value is not None
    assert pooled["control"].against_control is None
    english = {entry.arm: entry for entry in found["english",].arms}
    assert english["arm"].at_gain is not None
    assert english["arm"].at_gain.forgetting is not None
    assert english["arm"].at_gain.forgetting.mean == pytest.approx(0.0, abs=1e-12)


def add_divergence(run: ArmRun, divergences: Mapping[int, float]) -> ArmRun:
    """KL to the base at each step, nats per token of every text."""

    def extend(state: EvaluatedState) -> EvaluatedState:
        per_token = divergences[state.step]
        corpora = {
            name: corpus.model_copy(
                update={
                    "documents": tuple(
                        score.model_copy(update={"kl": score.num_tokens * per_token}) for score in corpus.documents
                    )
                }
            )
            for name, corpus in state.evaluation.corpora.items()
        }
        return state.model_copy(update={"evaluation": state.evaluation.model_copy(update={"corpora": corpora})})

    states = tuple(extend(state) for state in run.states)
    return run.model_copy(update={"states": states, "evaluation": states[-1].evaluation})


def test_with_divergences_the_arms_are_compared_by_them_too() -> None:
    control = add_divergence(CONTROL[0], {20: 0.1, 40: 0.3})
    arm = make_run("arm", 1e-4, 0, {20: (-0.4, 0.0, 0.1), 40: (-0.8, 0.1, 0.3)})
    runs = [control, add_divergence(arm, {20: 0.04, 40: 0.2})]
    found = compare_retention(make_evaluation(BASE), runs, control="control", gain=0.3)
    texts = [("english", "code"), ("english",), ("code",)]
    assert [(entry.measure, entry.corpora) for entry in found] == [
        (measure, text) for measure in ("loss", "kl") for text in texts
    ]
    for retention in found[3:]:
        by_arm = {entry.arm: entry.at_gain for entry in retention.arms}
        # The control reaches 0.3 half way from step 20 to 40, the arm at 0.75 of step 20.
        for name, expected in {"control": 0.2, "arm": 0.03}.items():
            at_gain = by_arm[name]
            assert at_gain is not None
            assert at_gain.forgetting is not None
            assert at_gain.forgetting.mean == pytest.approx(expected)


def test_where_one_state_lacks_its_divergence_losses_alone_are_compared() -> None:
    runs = [add_divergence(CONTROL[0], {20: 0.1, 40: 0.3}), CONTROL[1]]
    found = compare_retention(make_evaluation(BASE), runs, control="control")
    assert {entry.measure for entry in found} == {"loss"}


def test_points_fronts_and_areas() -> None:
    control = compare(CONTROL)["english",].arms[0]
    assert [curve.learning_rate for curve in control.curves] == [1e-4, 1e-3]
    assert control.curves[0].steps == (20, 40)
    assert control.curves[0].gains == pytest.approx((0.2, 0.4))
    assert control.curves[1].forgettings == pytest.approx((0.2, 0.3))
    expected = [(0.2, 0.01), (0.4, 0.02), (0.5, 0.2), (0.6, 0.3)]
    assert [pytest.approx(point) for point in expected] == list(control.front)
    # Corner (0, 0.1): 0.2 * 0.09 + 0.2 * 0.08; the fast curve forgets more than the corner.
    assert control.hypervolume == pytest.approx(0.034)


def test_the_common_gain_leaves_out_an_arm_that_hardly_learns() -> None:
    slow = [make_run("slow", 1e-4, 0, {20: (-0.1, 0.0, 0.0), 40: (-0.2, 0.0, 0.0)})]
    good = [make_run("good", 1e-4, 0, {20: (-0.2, 0.0, 0.0), 40: (-0.5, 0.0, 0.0)})]
    retention = compare([*CONTROL, *slow, *good])["english",]
    assert retention.gain == pytest.approx(0.5)
    reached = {entry.arm: entry.at_gain.reach for entry in retention.arms if entry.at_gain is not None}
    assert reached == {"control": Reach.REACHED, "slow": Reach.NOT_REACHED, "good": Reach.REACHED}


def test_where_the_control_learned_nothing_there_are_curves_and_no_common_gain() -> None:
    runs = [make_run("control", 1e-4, 0, {20: (0.1, 0.0, 0.0), 40: (0.2, 0.0, 0.0)})]
    retention = compare(runs)["english",]
    assert retention.gain is None
    assert retention.arms[0].at_gain is None
    assert retention.arms[0].hypervolume == 0
    assert len(retention.arms[0].curves) == 1


def test_a_curve_goes_through_the_states_that_all_seeds_have() -> None:
    runs = [
        make_run("control", 1e-4, 0, {20: (-0.2, 0.0, 0.0), 40: (-0.4, 0.0, 0.0)}),
        make_run("control", 1e-4, 1, {20: (-0.4, 0.0, 0.0)}),
        make_run("control", 1e-3, 0, {20: (-0.2, 0.0, 0.0)}),
        make_run("control", 1e-3, 1, {0: (0.0, 0.0, 0.0)}),
    ]
    (curve,) = compare(runs)["english",].arms[0].curves
    assert curve.steps == (20,)
    assert curve.gains == pytest.approx((0.3,))


def test_one_state_of_one_learning_rate_is_no_sweep() -> None:
    assert compare([make_run("control", 1e-4, 0, {40: (-0.4, 0.0, 0.0)})]) == {}
    demo = make_demo_comparison()
    assert compare_retention(demo.base, demo.runs, control=demo.control) == ()


def test_changes_show_each_arm_at_the_learning_rate_that_learned_most() -> None:
    runs = [*CONTROL, make_run("arm", 1e-4, 0, {40: (-0.1, 0.0, 0.0)}), make_run("arm", 1e-2, 0, {40: (0.7, 2.0, 2.0)})]
    changes = compute_changes(make_evaluation(BASE), runs, control="control")
    assert {(change.arm, change.learning_rate) for change in changes} == {("control", 1e-3), ("arm", 1e-4)}
    found = {(change.arm, change.corpus): change.difference.mean for change in changes}
    assert found["control", "english"] == pytest.approx(0.3)
    assert found["arm", NEW] == pytest.approx(-0.1)
