"""`oblong speech evaluate`: word and character error rates on test sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oblong.cli.evaluate import split_entry
from oblong.cli.terminal import print_json, progress_bar, stdout
from oblong.errors import OutputExistsError

if TYPE_CHECKING:
    from oblong.records import SpeechEvaluation
    from oblong.speech.decoding import DecodingSettings
    from oblong.speech.evaluating import SpeechCorpus


def evaluate(
    model: Annotated[str, typer.Argument(help="A directory, Hub id, or a name such as `whisper-base`.")],
    manifests: Annotated[
        list[str],
        typer.Argument(help="MANIFEST or NAME=MANIFEST: JSON Lines with audio, text, lang.", metavar="MANIFEST..."),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Another model, to run on the same audio and compare with.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 8,
    beams: Annotated[int, typer.Option(min=1, help="1 is greedy.")] = 1,
    window: Annotated[float, typer.Option(min=1, max=30, help="Cut longer audio at pauses, seconds.")] = 30,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many lines of each manifest.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="An instruction in place of the model's own, language included.")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", "-o", help="Write the record here; a killed call goes on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file, begin anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON document.")] = False,
) -> None:
    """Transcribe test sets and count the errors: WER and CER, raw and normalised, per language, with intervals.

    Greedy and without sampling; a clip is decoded to the same tokens alone and in a batch. Texts are normalised as
    Whisper does (English) or by case and punctuation only (other languages, diacritics kept).

    Example: oblong speech evaluate whisper-base prompts=speech/en-test.jsonl --baseline whisper-tiny.en -o scores.json
    """
    from oblong.speech.decoding import DecodingSettings
    from oblong.speech.evaluating import SpeechCorpus, compare_with_baseline

    if output is not None and output.exists() and not force:
        raise OutputExistsError(output)
    corpora = [SpeechCorpus.read(Path(path), name=name, limit=limit) for name, path in map(split_entry, manifests)]
    settings = DecodingSettings(batch_size=batch_size, num_beams=beams, window_seconds=window)
    journals = place_journals(output, force=force)
    runs = [
        run_one(name, corpora, settings, own_prompt, journal, dtype=dtype, device=device)
        for name, own_prompt, journal in zip((model, baseline), (prompt, None), journals, strict=True)
        if name is not None
    ]
    evaluation = runs[0] if len(runs) == 1 else compare_with_baseline(*runs)
    if output is not None:
        evaluation.write(output, force=force)
        for journal in journals:
            if journal is not None:
                journal.unlink(missing_ok=True)
    if as_json:
        print_json(evaluation.model_dump_json(indent=1))
    else:
        show(evaluation, output)


def place_journals(output: Path | None, *, force: bool) -> tuple[Path | None, Path | None]:
    """Where the model's and the baseline's unfinished work is kept: beside the output, nowhere without one."""
    if output is None:
        return None, None
    journals = tuple(output.with_name(f".{output.name}.{part}.partial") for part in ("model", "baseline"))
    for journal in journals:
        if force:
            journal.unlink(missing_ok=True)
    return journals[0], journals[1]


def run_one(
    name: str,
    corpora: Sequence[SpeechCorpus],
    settings: DecodingSettings,
    prompt: str | None,
    journal: Path | None,
    *,
    dtype: Literal["bfloat16", "float32"] | None,
    device: str | None,
) -> SpeechEvaluation:
    """Evaluate one model under a progress bar; it is gone from memory afterwards."""
    from oblong.speech.evaluating import evaluate_speech
    from oblong.speech.loading import load_transcriber

    loaded = load_transcriber(name, device=device, dtype=dtype, prompt=prompt)
    with progress_bar("clips") as bar:
        task = bar.add_task(name, total=None, detail="")
        return evaluate_speech(
            loaded,
            corpora,
            settings,
            journal=journal,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def show(evaluation: SpeechEvaluation, output: Path | None) -> None:
    """Print the tables and what they do not say."""
    from oblong.reporting.speech_tables import describe_speech_evaluation, render_speech_evaluation

    console = stdout()
    for part in (evaluation, evaluation.baseline):
        if part is not None:
            console.print(render_speech_evaluation(part))
            for line in describe_speech_evaluation(part):
                console.print(line, markup=False, soft_wrap=True)
    if output is not None:
        console.print(f"wrote {output}", markup=False, soft_wrap=True)
