from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oblong.errors import DataError, RecordError, SelectionError
from oblong.records import Ending, SpeechEvaluation
from oblong.speech.decoding import DecodingSettings
from oblong.speech.evaluating import BATCHES_PER_CHUNK, SpeechCorpus, compare_with_baseline, evaluate_speech
from oblong.speech.sources import Samples
from oblong.speech.transcribers import Heard
from tests.transcription_builders import (
    ScriptedTranscriber,
    hear_pitch,
    make_loaded,
    make_tone,
    write_manifest,
    write_sound,
)

SETTINGS = DecodingSettings(batch_size=1)
NUM_RESAMPLES = 200


def make_corpus(folder: Path, *, num_clips: int = 10, langs: tuple[str, ...] = ("en", "de")) -> SpeechCorpus:
    rows = []
    for place in range(num_clips):
        write_sound(folder / f"{place}.wav", make_tone(0.3, hertz=300 + 100 * place))
        text = f"tone{300 + 100 * place}"
        rows.append({"audio": f"{place}.wav", "text": text, "lang": langs[place % len(langs)], "speaker": f"s{place}"})
    return SpeechCorpus.read(write_manifest(folder / "clips.jsonl", rows))


def test_the_record_has_every_transcript_and_its_origin(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    evaluation = evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS)
    scored = evaluation.sets["clips"]
    assert [transcript.hypothesis for transcript in scored.transcripts] == [u.text for u in corpus.utterances]
    assert scored.scores.corpus.wer == 0.0
    assert list(scored.scores.languages) == ["de", "en"]
    assert scored.audio_seconds == pytest.approx(3.0)
    assert scored.real_time_factor is not None
    assert (evaluation.model_digest, scored.digest) == ("sha256:scripted", corpus.digest)
    assert evaluation.settings.batch_size == 1
    evaluation.write(tmp_path / "record.json")
    assert SpeechEvaluation.read(tmp_path / "record.json") == evaluation


def test_bad_audio_is_skipped_with_its_reason_and_the_rest_is_scored(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    (tmp_path / "3.wav").write_bytes(b"not audio")
    (tmp_path / "7.wav").unlink()
    scored = evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS).sets["clips"]
    assert [Path(item.audio).name for item in scored.skipped] == ["3.wav", "7.wav"]
    assert "no such file" in scored.skipped[1].reason
    assert len(scored.transcripts) == 8
    assert scored.scores.corpus.wer == 0.0


def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    whole = evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS)
    killed = ScriptedTranscriber(hear_pitch)

    def hear_until_killed(samples: Samples) -> str:
        if len(killed.batches) > 6:
            raise KeyboardInterrupt
        return hear_pitch(samples)

    killed.hear = hear_until_killed
    journal = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        evaluate_speech(make_loaded(killed), [corpus], SETTINGS, journal=journal)
    with journal.open("a") as file:
        file.write('{"set": "clips", "transc')  # the kill came in the middle of a line
    rest = ScriptedTranscriber(hear_pitch)
    resumed = evaluate_speech(make_loaded(rest), [corpus], SETTINGS, journal=journal)
    assert len(rest.batches) == 10 - BATCHES_PER_CHUNK
    assert resumed.sets["clips"].transcripts == whole.sets["clips"].transcripts
    assert resumed.sets["clips"].scores == whole.sets["clips"].scores
    again = ScriptedTranscriber(hear_pitch)
    assert evaluate_speech(make_loaded(again), [corpus], SETTINGS, journal=journal).sets == resumed.sets
    assert again.batches == []


def test_a_journal_of_another_evaluation_is_not_touched(tmp_path: Path) -> None:
    corpus, journal = make_corpus(tmp_path), tmp_path / "journal"
    evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS, journal=journal)
    before = journal.read_text()
    other = make_loaded(ScriptedTranscriber(hear_pitch), name="other")
    with pytest.raises(RecordError, match="unfinished evaluation of another model"):
        evaluate_speech(other, [corpus], SETTINGS, journal=journal)
    assert journal.read_text() == before
    journal.write_text("my own notes\n")
    with pytest.raises(RecordError, match="no unfinished evaluation"):
        evaluate_speech(other, [corpus], SETTINGS, journal=journal)


def test_the_difference_to_a_baseline_is_paired(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, langs=("de",))
    ours = evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS)
    deaf = make_loaded(ScriptedTranscriber(lambda samples: "tone300"), name="deaf")
    theirs = evaluate_speech(deaf, [corpus], SETTINGS)
    both = compare_with_baseline(ours, theirs, num_resamples=NUM_RESAMPLES)
    difference = both.sets["clips"].against_baseline
    assert difference is not None
    assert difference.mean == pytest.approx(-0.9)  # it is right about one of ten
    assert both.baseline == theirs


def test_what_cannot_be_evaluated_is_refused_before_any_work(tmp_path: Path) -> None:
    transcriber = ScriptedTranscriber(hear_pitch, langs=("en",))
    corpus = make_corpus(tmp_path)
    with pytest.raises(SelectionError, match=r"clips\.jsonl: has utterances in 'de', but it knows no 'de'"):
        evaluate_speech(make_loaded(transcriber), [corpus], SETTINGS)
    with pytest.raises(DataError, match="same name, 'clips'"):
        evaluate_speech(make_loaded(transcriber), [corpus, corpus], SETTINGS)
    assert transcriber.batches == []


def test_a_set_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, num_clips=2)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    with pytest.raises(DataError, match="none of its 2 audio files can be read"):
        evaluate_speech(make_loaded(ScriptedTranscriber(hear_pitch)), [corpus], SETTINGS)


def test_a_loop_that_decoding_stopped_is_counted_though_one_round_of_it_is_left(tmp_path: Path) -> None:
    class Looping(ScriptedTranscriber):
        def transcribe(self, windows: Sequence[Samples], lang: str | None, settings: DecodingSettings) -> list[Heard]:
            heard = super().transcribe(windows, lang, settings)
            return [replace(row, ending=Ending.LOOP if row.text == "tone300" else Ending.END) for row in heard]

    evaluation = evaluate_speech(make_loaded(Looping(hear_pitch)), [make_corpus(tmp_path)], SETTINGS)
    assert evaluation.sets["clips"].scores.corpus.num_loops == 1
    assert evaluation.sets["clips"].scores.languages["de"].num_loops == 0
