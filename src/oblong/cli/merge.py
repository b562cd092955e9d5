"""`oblong merge`: base + delta = a full model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from oblong.cli.terminal import stdout


def merge(
    run_directory: Annotated[Path, typer.Argument(help="Output of `oblong tune`, or a speech delta.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the merged model.")],
    base: Annotated[
        str | None,
        typer.Option(help="The base or language model, if it is no longer where it was."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model directory that is there.")] = False,
) -> None:
    """Write a run's model as a normal directory that transformers, vLLM and llama.cpp's converter load.

    The base's files are copied and the trained tensors put in their places: same shards, same dtype, same tokenizer.

    A speech delta becomes a speech LLM with encoder, adaptor and language model, in float32.

    Example: oblong merge runs/german -o german-model
    """
    from oblong.records import SPEECH_DELTA_FILE

    if (run_directory / SPEECH_DELTA_FILE).is_file():
        from oblong.speech.arms import merge_speech_delta

        directory = merge_speech_delta(run_directory, output, language_model=base, force=force)
    else:
        from oblong.tuning.merge import merge_run

        directory = merge_run(run_directory, output, base=base, force=force)
    stdout().print(f"merged model: {escape(str(directory))}", soft_wrap=True)
