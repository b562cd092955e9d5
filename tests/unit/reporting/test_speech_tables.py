from __future__ import annotations

import io

from rich.console import Console

from oblong.evaluation import score_utterance, summarise_errors
from oblong.records import Ending, Interval, SkippedAudio, SpeechEvaluation, SpeechSet, SpeechSettings, Transcript
from oblong.records.base import Provenance
from oblong.reporting.speech_tables import describe_speech_evaluation, list_speech_rows, render_speech_evaluation

ROWS = (
    ("we went home early", "we want home", "en", Ending.END),
    ("sehr schön", "sehr schön sehr schön sehr schön", "de", Ending.LOOP),
    ("", "thank you", "en", Ending.END),
)


def make_evaluation(*, baseline: SpeechEvaluation | None = None, name: str = "[b]mine[/b]") -> SpeechEvaluation:
    transcripts = tuple(
        Transcript(
            audio=f"{place}.wav",
            lang=lang,
            speaker="",
            source="",
            seconds=2.0,
            reference=said,
            hypothesis=heard,
            errors=score_utterance(said, heard, lang),
            endings=(ending,),
        )
        for place, (said, heard, lang, ending) in enumerate(ROWS)
    )
    scores = summarise_errors([t.errors for t in transcripts], [t.lang for t in transcripts], num_resamples=100)
    prompts = SpeechSet(
        manifest="prompts.jsonl",
        digest="sha256:0",
        transcripts=transcripts,
        skipped=(SkippedAudio(audio="3.wav", reason="no such file"),),
        scores=scores,
        audio_seconds=6.0,
        decoding_seconds=1.5,
        against_baseline=baseline and Interval(mean=0.015, low=-0.02, high=0.05, num_resamples=100),
    )
    settings = SpeechSettings(
        batch_size=8,
        num_beams=1,
        window_seconds=30,
        base_tokens=32,
        tokens_per_second=24,
        dtype="float32",
        device="cpu",
        threads=1,
        prompt=None,
    )
    return SpeechEvaluation(
        model=name,
        model_digest="sha256:1",
        settings=settings,
        sets={"prompts": prompts},
        baseline=baseline,
        provenance=Provenance.here(),
    )


def test_there_is_a_row_per_language_and_one_for_all() -> None:
    rows = list_speech_rows(make_evaluation())
    assert [row.lang for row in rows] == ["de", "en", "all"]
    assert [row.real_time_factor for row in rows] == [None, None, 0.25]
    # en: went -> want, "early" is left out, and two words are invented where nothing was said.
    english = rows[1].scores.words
    assert (english.substitutions, english.deletions, english.insertions, english.num_reference) == (1, 1, 2, 4)


def test_the_table_shows_percentages() -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(render_speech_evaluation(make_evaluation()))
    lines = buffer.getvalue().splitlines()
    assert "[b]mine[/b]: greedy, batch 8, float32, cpu" in lines[0]
    german = next(line.split() for line in lines if " de " in line)
    # Four words of two inserted, as one looping clip of one; six words heard for two said.
    assert german == [
        "prompts",
        "de",
        "1",
        "2",
        "200.0",
        *german[5:7],
        "0.0",
        "0.0",
        "200.0",
        "3.00",
        "0.0",
        "100.0",
        "-",
    ]
    total = next(line.split() for line in lines if " all " in line)
    assert total[-1] == "0.250"


def test_what_the_table_does_not_say_is_said() -> None:
    evaluation = make_evaluation(baseline=make_evaluation(name="theirs"))
    text = "\n".join(describe_speech_evaluation(evaluation))
    assert "prompts: mean WER of the languages 150.0 %" in text
    assert "prompts: 1 window stopped because the model repeated itself" in text
    assert "prompts: 1 clips with nothing to recognise, 1 answered with text" in text
    assert "prompts: 1 of 4 skipped, the first: 3.wav: no such file" in text
    assert "WER against theirs: +1.5 points [-2.0, 5.0]" in text
    assert "de: whisper-basic (transformers" in text
