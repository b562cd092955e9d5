"""`oblong speech manifest`: an audiofolder or a Hugging Face dataset as a manifest, which every other command reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from oblong.cli.terminal import format_seconds, progress_bar, stdout, warn
from oblong.errors import OutputExistsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oblong.corpora.speech import SkipReport, Utterance

CLIPS_SUFFIX: Final = ".clips"  # of the folder beside a manifest for sound that a dataset holds


def manifest(
    source: Annotated[
        Path,
        typer.Argument(help="An audiofolder, a dataset of save_to_disk, Parquet files, or a manifest to check."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The manifest to write, such as speech.jsonl.")],
    lang: Annotated[str | None, typer.Option(help="Language where no column says it, such as de.")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the transcripts; default: the usual names.")
    ] = None,
    audio_column: Annotated[str, typer.Option(help="Column of the sound, in a Hugging Face dataset.")] = "audio",
    split: Annotated[str | None, typer.Option(help="Split of a dataset that has several.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing manifest.")] = False,
) -> None:
    """Write a manifest of speech in another form, and decode every clip once to see that it can be used.

    Sound that is embedded in a dataset is written to files in a folder beside the manifest. Clips that are missing,
    corrupt, silent or without a transcript are left out and counted with their reasons.

    Example: oblong speech manifest common_voice/ --split train --lang de -o common-voice-de.jsonl
    """
    if output.exists() and not force:
        raise OutputExistsError(output)
    from oblong.corpora.speech import Columns, SpeechSource, read_speech, write_manifest

    found = read_speech(
        SpeechSource(
            path=source,
            lang=lang,
            columns=Columns(audio=audio_column, text=text_column),
            split=split,
            extract_to=output.with_suffix(CLIPS_SUFFIX),
        )
    )
    usable, skips = check_with_progress(found)
    write_manifest(output, usable, force=force)
    if skips.total:
        warn(escape(skips.describe()))
    stdout().print(escape(describe(output, usable)), soft_wrap=True)


def check_with_progress(utterances: Sequence[Utterance]) -> tuple[list[Utterance], SkipReport]:
    """Decode all once, with a progress bar."""
    from oblong.corpora.speech import select_usable

    with progress_bar("clips") as bar:
        task = bar.add_task("decoding", total=len(utterances), detail="")
        return select_usable(utterances, on_progress=lambda done, total: bar.update(task, completed=done, total=total))


def describe(output: Path, utterances: Sequence[Utterance]) -> str:
    """What is in the manifest: clips, duration, languages."""
    seconds = sum(utterance.duration or 0.0 for utterance in utterances)
    langs = ", ".join(sorted({utterance.lang for utterance in utterances}))
    clips = "1 clip" if len(utterances) == 1 else f"{len(utterances):,} clips"
    return f"wrote {output}: {clips}, {format_seconds(seconds)}, language {langs}"
