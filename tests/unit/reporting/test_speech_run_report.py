"""SpeechRuns in the report: rows derived by hand, the figure's data, the tables, the page."""

from __future__ import annotations

import io
from pathlib import Path

import altair as alt
import pytest
from rich.console import Console

from oblong.errors import OutputExistsError, UserError
from oblong.records import SkippedAudio, SpeechRun, SpeechStage
from oblong.reporting.figures import render_png
from oblong.reporting.speech_run_charts import build_speech_run_figure, find_top_wer, speech_run_chart
from oblong.reporting.speech_run_page import render_speech_report, spread_transcripts, write_speech_report
from oblong.reporting.speech_run_rows import (
    ArmRecord,
    choose_unit,
    curve_rows,
    mean_curve_rows,
    name_arm,
    place_points,
)
from oblong.reporting.speech_run_tables import (
    describe_speech_runs,
    list_speech_run_rows,
    render_speech_runs,
    wer_cells,
)
from tests.speech_run_builders import make_curve, make_point, make_speech_run
from tests.unit.reporting.test_speech_tables import make_evaluation

SPELL, ALIGN, ADAPT = SpeechStage.SPELL, SpeechStage.ALIGN, SpeechStage.ADAPT
GOLDEN = Path(__file__).resolve().parents[2] / "golden/records/v1/speech_run.json"


def record(run: SpeechRun) -> ArmRecord:
    return ArmRecord(arm=name_arm(run), run=run)


def two_seeds() -> list[ArmRecord]:
    """English WER 0.8 -> 0.4 and 0.6 -> 0.5 -> 0.2: the second seed went on for a third evaluation, and was faster."""
    first = [make_point(ADAPT, step, {"english": wer}, {"prose": 1.0}) for step, wer in ((0, 0.8), (10, 0.4))]
    second = [
        make_point(ADAPT, step, {"english": wer}, {"prose": 1.1}, pace=0.5)
        for step, wer in ((0, 0.6), (10, 0.5), (20, 0.2))
    ]
    return [
        record(make_speech_run("lora-0", seed=0, points=first)),
        record(make_speech_run("lora-7", seed=7, points=second)),
    ]


@pytest.mark.parametrize(
    ("name", "seed", "arm"),
    [
        ("lora-2", 2, "lora"),
        ("lora-seed-2", 2, "lora"),
        ("lora_s2", 2, "lora"),
        ("lora-16", 6, "lora-16"),
        ("lora-2", 0, "lora-2"),
        ("0", 0, "0"),
    ],
)
def test_an_arm_is_a_run_without_its_seed(name: str, seed: int, arm: str) -> None:
    assert name_arm(make_speech_run(name, seed=seed)) == arm


def test_the_second_stage_begins_at_zero() -> None:
    points = [
        make_point(ALIGN, 0, {"a": 1.0}, {}),
        make_point(ALIGN, 30, {"a": 0.9}, {}),
        make_point(ADAPT, 0, {"a": 0.9}, {}),
        make_point(ADAPT, 5, {"a": 0.5}, {}),
    ]
    run = make_speech_run(points=points)
    assert [placed.x for placed in place_points(run)] == [-360, 0, 0, 60]  # 12 s a step
    assert [placed.x for placed in place_points(run, "steps")] == [-30, 0, 0, 5]
    assert choose_unit([record(run)]) == ("min", 60.0)


def test_spelling_stands_before_what_follows_it() -> None:
    points = [make_point(stage, step, {"a": 1.0}, {}) for stage, step in ((SPELL, 0), (SPELL, 10), (ALIGN, 0))]
    assert [placed.x for placed in place_points(make_speech_run(points=points), "steps")] == [-10, 0, 0]
    aligned = [*points, make_point(ALIGN, 4, {"a": 1.0}, {}), make_point(ADAPT, 0, {"a": 1.0}, {})]
    assert [placed.x for placed in place_points(make_speech_run(points=aligned), "steps")] == [-14, -4, -4, 0, 0]


def test_the_mean_covers_what_all_seeds_have() -> None:
    means = [row for row in mean_curve_rows(curve_rows(two_seeds(), "time")) if row["kind"] == "wer"]
    assert [(row["arm"], row["step"], row["seeds"]) for row in means] == [("lora", 0, 2), ("lora", 10, 2)]
    assert [row["value"] for row in means] == pytest.approx([0.7, 0.45])
    # 10 steps took 120 s and 60 s; the axis, which spans 120 s, is in seconds.
    assert [row["x"] for row in means] == pytest.approx([0, 90])


def test_an_empty_test_set_breaks_the_line() -> None:
    point = make_point(ADAPT, 0, {"english": 0.0}, {})
    scored = point.wer["english"]
    empty = scored.model_copy(update={"words": scored.words.model_copy(update={"hits": 0})})
    run = make_speech_run(points=[point.model_copy(update={"wer": {"english": empty}})])
    rows = curve_rows([record(run)])
    assert [row["value"] for row in rows] == [None]
    assert mean_curve_rows(rows) == []


def test_the_table_has_the_kept_checkpoint_the_end_and_the_means() -> None:
    rows = list_speech_run_rows(two_seeds())
    assert [row.seed for row in rows] == ["0", "7", "mean"]
    assert [row.best_wer for row in rows] == pytest.approx([0.4, 0.2, 0.3])
    assert [row.best_retention for row in rows] == pytest.approx([1.0, 1.1, 1.05])
    assert wer_cells(rows[0], ["english"]) == ["lora", "0", "40.0 [36.0, 44.0]", "40.0"]
    assert wer_cells(rows[2], ["english", "german"]) == ["lora", "mean", "30.0", "-", "30.0", "30.0"]


def test_a_run_within_no_budget_has_no_best() -> None:
    run = make_speech_run().model_copy(update={"best": None})
    row = list_speech_run_rows([record(run)])[0]
    assert (row.best_wer, row.best_retention) == (None, None)
    assert row.final_wer == pytest.approx(0.4)
    assert not any(row["best"] for row in curve_rows([record(run)]))


def test_tables_print_and_sentences_say_the_rest() -> None:
    run = make_speech_run("[b]mine[/b]")
    limited = run.evaluate["english"].model_copy(
        update={"num_limited": 40, "skipped": (SkippedAudio(audio="a.wav", reason="no such file"),)}
    )
    records = [record(run.model_copy(update={"evaluate": {"english": limited}}))]
    buffer = io.StringIO()
    for table in render_speech_runs(records):
        Console(file=buffer, width=160).print(table)
    assert "[b]mine[/b]" in buffer.getvalue()
    assert "40.0 [36.0, 44.0]" in buffer.getvalue()
    text = "\n".join(describe_speech_runs(records))
    assert "all steps are done" in text
    assert "english: tested on 60 of 100 clips" in text
    assert "1 clips skipped, the first: a.wav: no such file" in text


def test_the_figure_is_valid_and_draws() -> None:
    runs = [
        make_curve(name, seed=seed, speed=speed, forgetting=forgetting, aligned=True)
        for name, speed, forgetting in (("kappa-lowest", 2.0, 6.0), ("random", 1.4, 0.2))
        for seed in (0, 1)
    ]
    records = [record(run) for run in runs]
    spec = speech_run_chart(records).to_dict()  # checked against the schema of Vega-Lite
    assert [len(band["concat"]) for band in spec["vconcat"]] == [2, 2]
    assert [panel["title"] for band in spec["vconcat"] for panel in band["concat"]] == [
        "english",
        "german",
        "prose",
        "code",
    ]
    figure = build_speech_run_figure(records)
    assert "Left of 0 the adaptor alone" in figure.caption
    assert "Rates above 120% lie outside" in figure.caption
    assert render_png(figure).startswith(b"\x89PNG")


def test_a_single_run_without_text_has_one_band() -> None:
    run = make_speech_run(points=[make_point(ADAPT, 0, {"english": 0.5}, {})])
    chart = speech_run_chart([record(run)])
    assert isinstance(chart, alt.VConcatChart)
    assert len(chart.to_dict()["vconcat"]) == 1
    assert "Faint" not in build_speech_run_figure([record(run)]).caption


def test_the_golden_record_is_reported() -> None:
    run = SpeechRun.read(GOLDEN)
    assert name_arm(run) == "kappa-lowest"
    page = render_speech_report([record(run)])
    assert page == render_speech_report([record(run)])
    assert "15.9" in page
    assert run.digest() in page


def test_the_page_escapes_what_was_heard_and_loads_nothing(tmp_path: Path) -> None:
    evaluation = make_evaluation(name="<script>alert(1)</script>")
    run = make_speech_run("<img src=x>")
    written = write_speech_report(
        tmp_path / "page.html", [record(run)], evaluation=evaluation, png_directory=tmp_path / "figures"
    )
    assert [path.name for path in written] == [
        "page.html",
        "word-errors-and-retention.png",
        "word-errors-and-retention.svg",
    ]
    page = written[0].read_text(encoding="utf-8")
    assert "<img src=x>" not in page
    assert "<script>alert" not in page
    assert "we want home" in page
    assert "prompts: 3 of 3 clips" in page
    with pytest.raises(OutputExistsError):
        write_speech_report(tmp_path / "page.html", [record(run)])


def test_transcripts_are_spread_from_best_to_worst() -> None:
    transcripts = make_evaluation().sets["prompts"].transcripts
    # Wrong words per word: 2 of 4, 4 of 2, and 2 where nothing was said.
    assert [t.hypothesis for t in spread_transcripts(transcripts, 2)] == ["we want home", "thank you"]


def test_what_cannot_be_reported_is_refused() -> None:
    run = make_speech_run("lora-1", seed=1)
    with pytest.raises(UserError, match="two runs of the arm 'lora' have the seed 1"):
        render_speech_report([record(run), record(run)])
    with pytest.raises(UserError, match="has no evaluation yet"):
        render_speech_report([record(make_speech_run(points=[]))])
    with pytest.raises(UserError, match="nothing to report"):
        render_speech_report([])


def test_the_axis_of_word_errors_never_hides_an_end() -> None:
    def top(*rates: float) -> float:
        points = [make_point(ADAPT, step, {"a": rate}, {}) for step, rate in enumerate(rates)]
        return find_top_wer(curve_rows([record(make_speech_run(points=points))]))

    assert top(4.0, 2.5) == pytest.approx(2.75)
    assert top(4.0, 0.3) == pytest.approx(1.2)
    assert top(0.8, 0.3) == pytest.approx(0.824)
    assert top(0.1, 0.05) == pytest.approx(0.2)
