"""A model on test sets: read, transcribe, count, and go on after a kill; and how far it is from another model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import torch

from oblong.errors import AudioError, DataError, SelectionError
from oblong.evaluation.wer import bootstrap_wer_difference, score_utterance, summarise_errors
from oblong.records import (
    Ending,
    Provenance,
    SkippedAudio,
    SpeechEvaluation,
    SpeechSet,
    SpeechSettings,
    Transcript,
)
from oblong.records.base import digest_bytes
from oblong.speech.decoding import DecodingSettings
from oblong.speech.journal import Chunk, Journal
from oblong.speech.loading import LoadedTranscriber
from oblong.speech.sources import SAMPLE_RATE, Samples, Utterance, load_audio, read_manifest
from oblong.speech.transcribing import Clip, OnProgress, transcribe_clips

BATCHES_PER_CHUNK: Final = 4  # among so many batches clips of equal length find each other; a kill loses one chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechCorpus:
    """A test set: the utterances of a manifest, with the digest of its file."""

    name: str
    manifest: Path
    digest: str
    utterances: tuple[Utterance, ...]

    @classmethod
    def read(cls, manifest: Path, *, name: str | None = None, limit: int | None = None) -> Self:
        """Read a manifest, or its first `limit` utterances; the name is the file's unless given.

        Raises:
            DataError: it cannot be read, or has no utterance.
        """
        utterances = tuple(read_manifest(manifest)[:limit])
        if not utterances:
            raise DataError(f"{manifest}: has no utterance")
        digest = digest_bytes(manifest.read_bytes())
        return cls(name=name or manifest.stem, manifest=manifest, digest=digest, utterances=utterances)


def evaluate_speech(
    loaded: LoadedTranscriber,
    corpora: Sequence[SpeechCorpus],
    settings: DecodingSettings,
    *,
    journal: Path | None = None,
    num_resamples: int = 10_000,
    on_progress: OnProgress | None = None,
) -> SpeechEvaluation:
    """Transcribe test sets and score them.

    Args:
        loaded: the model.
        corpora: test sets; names must differ.
        settings: how to decode.
        journal: file that keeps what is done, for a later call to go on with; the caller removes it once the
            evaluation is written.
        num_resamples: of the intervals; 0 computes none.
        on_progress: called with the utterances that are done and their total.

    Returns:
        The evaluation, not yet written.

    Raises:
        SelectionError: the model does not know a language of a test set.
        DataError: no audio of a test set can be read, or two sets have one name.
        RecordError: the journal belongs to another evaluation.
    """
    check_corpora(loaded, corpora)
    notes = Journal(journal, make_key(loaded, corpora, settings))
    total = sum(len(corpus.utterances) for corpus in corpora)
    sets: dict[str, SpeechSet] = {}
    done = 0
    for corpus in corpora:
        finished = list(notes.chunks_of(corpus.name))
        while (begin := sum(chunk.num_utterances for chunk in finished)) < len(corpus.utterances):
            part = corpus.utterances[begin : begin + BATCHES_PER_CHUNK * settings.batch_size]
            finished.append(transcribe_chunk(loaded, corpus.name, part, settings))
            notes.append(finished[-1])
            if on_progress is not None:
                on_progress(done + begin + len(part), total)
        done += len(corpus.utterances)
        sets[corpus.name] = _summarise(corpus, finished, num_resamples)
    return SpeechEvaluation(
        model=loaded.name,
        model_digest=loaded.digest,
        settings=describe_settings(loaded, settings),
        sets=sets,
        provenance=Provenance.here(),
    )


def compare_with_baseline(
    evaluation: SpeechEvaluation, baseline: SpeechEvaluation, *, num_resamples: int = 10_000
) -> SpeechEvaluation:
    """The same evaluation with the baseline beside it, and the difference of the two for every set.

    Raises:
        DataError: the two do not cover the same sets and utterances.
    """
    if list(evaluation.sets) != list(baseline.sets):
        raise DataError("cannot compare the two evaluations: they do not cover the same sets")
    sets = {}
    for name, scored in evaluation.sets.items():
        other = baseline.sets[name]
        difference = bootstrap_wer_difference(
            [transcript.errors for transcript in scored.transcripts],
            [transcript.errors for transcript in other.transcripts],
            num_resamples=num_resamples,
        )
        sets[name] = scored.model_copy(update={"against_baseline": difference})
    return evaluation.model_copy(update={"sets": sets, "baseline": baseline})


def check_corpora(loaded: LoadedTranscriber, corpora: Sequence[SpeechCorpus]) -> None:
    """Refuse before any work what cannot be carried out.

    Raises:
        SelectionError: the model does not know a language; the message names the test set.
        DataError: two sets have one name.
    """
    names = [corpus.name for corpus in corpora]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"two test sets have the same name, {repeated!r}: give each its own with NAME=MANIFEST")
    for corpus in corpora:
        for lang in sorted({utterance.lang for utterance in corpus.utterances}):
            try:
                loaded.transcriber.check_language(lang)
            except SelectionError as error:
                raise SelectionError(f"{corpus.manifest}: has utterances in {lang!r}, but {error}") from error


def describe_settings(loaded: LoadedTranscriber, settings: DecodingSettings) -> SpeechSettings:
    """How it was decoded, for the record."""
    return SpeechSettings(
        **asdict(settings),
        dtype=loaded.dtype,
        device=str(loaded.device),
        threads=torch.get_num_threads(),
        prompt=loaded.prompt,
    )


def make_key(loaded: LoadedTranscriber, corpora: Sequence[SpeechCorpus], settings: DecodingSettings) -> str:
    """Digest of what an unfinished evaluation and the call that goes on with it must share."""
    shared = {
        "model": loaded.digest,
        "corpora": [[corpus.name, corpus.digest, len(corpus.utterances)] for corpus in corpora],
        "settings": describe_settings(loaded, settings).model_dump(mode="json", exclude={"threads"}),
    }
    return digest_bytes(json.dumps(shared, sort_keys=True).encode())


def transcribe_chunk(
    loaded: LoadedTranscriber, name: str, utterances: Sequence[Utterance], settings: DecodingSettings
) -> Chunk:
    """Transcribe some utterances of a set; those whose audio cannot be read are skipped with the reason."""
    readable, skipped = _load(utterances)
    clips = [Clip(samples=samples, lang=utterance.lang) for utterance, samples in readable]
    started = time.perf_counter()
    transcriptions = transcribe_clips(loaded.transcriber, clips, settings)
    seconds = time.perf_counter() - started
    transcripts = tuple(
        Transcript(
            audio=str(utterance.audio),
            lang=utterance.lang,
            speaker=utterance.speaker,
            source=utterance.source,
            seconds=len(samples) / SAMPLE_RATE,
            reference=utterance.text,
            hypothesis=transcription.text,
            errors=score_utterance(
                utterance.text,
                transcription.text,
                utterance.lang,
                stopped_in_loop=Ending.LOOP in transcription.endings,
            ),
            endings=transcription.endings,
        )
        for (utterance, samples), transcription in zip(readable, transcriptions, strict=True)
    )
    return Chunk(set=name, transcripts=transcripts, skipped=tuple(skipped), decoding_seconds=seconds)


def _load(utterances: Sequence[Utterance]) -> tuple[list[tuple[Utterance, Samples]], list[SkippedAudio]]:
    readable, skipped = [], []
    for utterance in utterances:
        try:
            readable.append((utterance, load_audio(utterance.audio)))
        except AudioError as error:
            skipped.append(SkippedAudio(audio=str(utterance.audio), reason=error.reason))
    return readable, skipped


def _summarise(corpus: SpeechCorpus, chunks: Sequence[Chunk], num_resamples: int) -> SpeechSet:
    transcripts = tuple(transcript for chunk in chunks for transcript in chunk.transcripts)
    skipped = tuple(item for chunk in chunks for item in chunk.skipped)
    if not transcripts:
        first = f"{skipped[0].audio}: {skipped[0].reason}"
        raise DataError(f"{corpus.manifest}: none of its {len(skipped)} audio files can be read; the first: {first}")
    return SpeechSet(
        manifest=str(corpus.manifest),
        digest=corpus.digest,
        transcripts=transcripts,
        skipped=skipped,
        scores=summarise_errors(
            [transcript.errors for transcript in transcripts],
            [transcript.lang for transcript in transcripts],
            num_resamples=num_resamples,
        ),
        audio_seconds=sum(transcript.seconds for transcript in transcripts),
        decoding_seconds=sum(chunk.decoding_seconds for chunk in chunks),
    )
