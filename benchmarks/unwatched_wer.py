"""The WER of those test clips that a training did not watch when it chose its best checkpoint.

    python -m benchmarks.unwatched_wer SCORES [--set human-en] [--watched 48]

SCORES is what `oblong speech evaluate BEST NAME=MANIFEST -o SCORES` wrote. A training with `limits: {evaluate: 48}`
picks its best checkpoint by 48 clips of that manifest, at equal distances; on them the chosen checkpoint looks better
than it is. Printed are normalised WER and its bootstrap interval for all clips, the watched and the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from oblong.corpora.speech import read_manifest
from oblong.evaluation.wer import summarise_errors
from oblong.records.speech_evaluation import SpeechEvaluation, Transcript
from oblong.speech.training.preparing import spread_evenly


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--set", default="human-en", help="name of the test set in SCORES")
    parser.add_argument("--watched", type=int, default=48, help="`limits.evaluate` of the training's recipe")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Split and print."""
    options = parse_options(arguments)
    scored = SpeechEvaluation.read(options.scores).sets[options.set]
    watched = {str(clip.audio) for clip in spread_evenly(read_manifest(Path(scored.manifest)), options.watched)}
    parts = {
        "all": scored.transcripts,
        "watched": [transcript for transcript in scored.transcripts if str(transcript.audio) in watched],
        "not watched": [transcript for transcript in scored.transcripts if str(transcript.audio) not in watched],
    }
    for name, transcripts in parts.items():
        print_wer(name, transcripts)


def print_wer(name: str, transcripts: Sequence[Transcript]) -> None:
    """One line."""
    scores = summarise_errors([each.errors for each in transcripts], [each.lang for each in transcripts])
    interval = scores.corpus.word_interval
    if interval is None:
        raise SystemExit(f"{name}: no words")
    print(f"{name:<12} {len(transcripts):>4} clips  WER {interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]")


if __name__ == "__main__":
    main()
