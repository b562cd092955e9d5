"""`oblong speech transcribe`: files, folders or a stream to text, JSON or subtitles."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.markup import escape

from oblong.cli.terminal import format_seconds, note, progress_bar, warn
from oblong.errors import AudioError, DataError, OutputExistsError, SelectionError

if TYPE_CHECKING:
    from oblong.speech.decoding import DecodingSettings
    from oblong.speech.loading import LoadedTranscriber
    from oblong.speech.transcribing import Transcription

Format = Literal["text", "json", "srt"]
STREAM: Final = "-"
"""Standard input, on the command line."""


def transcribe(
    model: Annotated[str, typer.Argument(help="A directory, Hub id, or a name such as `whisper-base`.")],
    sources: Annotated[
        list[str], typer.Argument(help="Audio files, folders of them, or - for a stream.", metavar="FILE|FOLDER|-...")
    ],
    form: Annotated[Format, typer.Option("--format", help="json: one object per line; srt: subtitles.")] = "text",
    lang: Annotated[str | None, typer.Option(help="Such as de. Default: the model finds out.")] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Folder for one file per audio file.")
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Write beside each audio file.")] = False,
    raw_rate: Annotated[
        int | None, typer.Option(min=1000, help="The stream is raw mono 16-bit little-endian at this rate, Hz.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 8,
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy.")] = 1,
    window: Annotated[
        float | None, typer.Option(min=1, max=30, help="Cut at pauses, seconds. Default: 30; for srt 7.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="An instruction in place of the model's own, language included.")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Transcribe audio of any length; what cannot be read is skipped and counted, and the exit code is then 1.

    Long audio is cut at pauses. Silence gives no text. What a model repeats without end is cut, and said.

    Example: oblong speech transcribe whisper-base meeting.mp3 --format srt --beside
    """
    from oblong.speech.decoding import WINDOW_SECONDS, DecodingSettings
    from oblong.speech.loading import load_transcriber
    from oblong.speech.subtitles import SUBTITLE_WINDOW_SECONDS, SUBTITLES

    longest = window or (SUBTITLE_WINDOW_SECONDS if form == SUBTITLES else WINDOW_SECONDS)
    with list_sources(sources, raw_rate) as files:
        targets = place_outputs(files, form, output, beside=beside, force=force)
        loaded = load_transcriber(model, device=device, dtype=dtype, prompt=prompt)
        loaded.transcriber.check_language(lang)
        settings = DecodingSettings(batch_size=batch_size, num_beams=beams, window_seconds=longest)
        num_skipped = transcribe_files(loaded, files, targets, form, lang, settings)
    if num_skipped:
        warn(f"{num_skipped} of {len(files)} skipped")
        raise typer.Exit(1)


@contextmanager
def list_sources(sources: Sequence[str], raw_rate: int | None) -> Iterator[list[tuple[str, Path]]]:
    """Names and files of what was asked for, folders opened; a stream lies in a file while the block runs.

    Raises:
        DataError: a folder without audio.
        SelectionError: the stream is named twice, or a rate of it is given and it is not named.
    """
    from oblong.speech.inputs import list_audio_files

    if sources.count(STREAM) > 1 or (raw_rate is not None and STREAM not in sources):
        raise SelectionError("- stands for standard input and may be named once; --raw-rate is about it only")
    with TemporaryDirectory(prefix="oblong-") as folder:
        files: list[tuple[str, Path]] = []
        for source in sources:
            path = Path(source)
            if source == STREAM:
                files.append((STREAM, save_stream(Path(folder), raw_rate)))
            elif path.is_dir():
                files += [(make_printable(file), file) for file in list_audio_files(path)]
            else:
                files.append((make_printable(path), path))
        yield files


def make_printable(path: Path) -> str:
    """A path as text; bytes of its name that are not UTF-8, as old disks have them, become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def save_stream(folder: Path, raw_rate: int | None) -> Path:
    """Read standard input to its end, into a file that decoders take.

    Raises:
        DataError: nothing came.
    """
    from oblong.speech.inputs import wrap_raw

    data = sys.stdin.buffer.read()
    if not data:
        raise DataError("standard input is empty: pipe audio into it, a WAV file or, with --raw-rate, raw samples")
    path = folder / "stdin"
    path.write_bytes(data if raw_rate is None else wrap_raw(data, raw_rate))
    return path


def place_outputs(
    files: Sequence[tuple[str, Path]], form: Format, output: Path | None, *, beside: bool, force: bool
) -> list[Path | None]:
    """The file that each transcript goes to; None for standard output.

    Raises:
        SelectionError: options that exclude each other, subtitles of several files on standard output, a stream that
            has no place beside it, or two transcripts for one file.
        OutputExistsError: one of them is there, and `force` is not given.
    """
    from oblong.speech.subtitles import SUBTITLES, SUFFIXES

    if output is not None and beside:
        raise SelectionError("--out and --beside exclude each other")
    if output is None and not beside:
        if form == SUBTITLES and len(files) > 1:
            raise SelectionError(f"subtitles of {len(files)} files need a file each: pass --beside or --out FOLDER")
        return [None] * len(files)
    if beside and any(name == STREAM for name, _ in files):
        raise SelectionError("there is nothing beside a stream: pass --out FOLDER")
    targets = [(output or path.parent) / f"{path.stem}{SUFFIXES[form]}" for _, path in files]
    twice = next((target for target in targets if targets.count(target) > 1), None)
    if twice is not None:
        raise SelectionError(f"two of the files would be written to {twice}: transcribe them into different folders")
    existing = next((target for target in targets if target.exists()), None)
    if existing is not None and not force:
        raise OutputExistsError(existing)
    return list(targets)


def transcribe_files(
    loaded: LoadedTranscriber,
    files: Sequence[tuple[str, Path]],
    targets: Sequence[Path | None],
    form: Format,
    lang: str | None,
    settings: DecodingSettings,
) -> int:
    """Transcribe batch after batch of files, and write each as it is done; returns how many were skipped."""
    audio_seconds, started, num_skipped = 0.0, time.perf_counter(), 0
    with progress_bar("files") as bar:
        task = bar.add_task("transcribing", total=len(files), detail="")
        for begin in range(0, len(files), settings.batch_size):
            part = slice(begin, begin + settings.batch_size)
            outcomes = transcribe_part(loaded, [path for _, path in files[part]], lang, settings)
            for (name, _), target, outcome in zip(files[part], targets[part], outcomes, strict=True):
                if isinstance(outcome, AudioError):
                    num_skipped += 1
                    warn(escape(f"{name}: {outcome.reason}; skipped"))
                    continue
                audio_seconds += outcome.seconds
                write_transcript(name, outcome, form, target, alone=len(files) == 1)
            bar.update(task, completed=min(part.stop, len(files)))
    report_speed(audio_seconds, time.perf_counter() - started)
    return num_skipped


def transcribe_part(
    loaded: LoadedTranscriber, paths: Sequence[Path], lang: str | None, settings: DecodingSettings
) -> list[Transcription | AudioError]:
    """One outcome per file, in order."""
    from oblong.speech.sources import load_audio
    from oblong.speech.transcribing import Clip, transcribe_clips

    outcomes: dict[int, Transcription | AudioError] = {}
    clips = {}
    for place, path in enumerate(paths):
        try:
            clips[place] = Clip(samples=load_audio(path), lang=lang)
        except AudioError as error:
            outcomes[place] = error
    done = transcribe_clips(loaded.transcriber, list(clips.values()), settings)
    outcomes |= zip(clips, done, strict=True)
    return [outcomes[place] for place in range(len(paths))]


def write_transcript(
    name: str, transcription: Transcription, form: Format, target: Path | None, *, alone: bool
) -> None:
    """To its file, or to standard output, where the name goes before the text of one among several."""
    from oblong.records.base import replace_on_success
    from oblong.speech.subtitles import RENDERERS

    text = RENDERERS[form](name, transcription)
    if transcription.num_cut:
        warn(
            escape(f"{name}: {transcription.num_cut} of {len(transcription.segments)} windows are cut: loop, or no end")
        )
    if target is not None:
        with replace_on_success(target, force=True) as file:
            file.write(text)
    else:
        sys.stdout.write(text if alone or form != "text" else f"{name}\t{text}")
        sys.stdout.flush()


def report_speed(audio_seconds: float, seconds: float) -> None:
    """How long it took, and how that compares with the audio; reading files included."""
    if audio_seconds:
        took = f"{format_seconds(audio_seconds)} of audio in {format_seconds(seconds)}"
        note(f"{took}: real-time factor {seconds / audio_seconds:.3f}")
