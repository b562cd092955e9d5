"""`oblong merge`: base + delta = a full model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from oblong.cli.terminal import stdout


def merge(
    run_directory: Annotated[Path, typer.Argument(help="Output directory of `oblong tune`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the merged model.")],
    base: Annotated[str | None, typer.Option(help="The base model, if it is no longer where the run found it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model directory that is there.")] = False,
) -> None:
    """Write a run's model as a normal directory that transformers, vLLM and llama.cpp's converter load.

    The base's files are copied and the trained tensors put in their places: same shards, same dtype, same tokenizer.

    Example: oblong merge runs/german -o german-model
    """
    from oblong.tuning.merge import merge_run

    directory = merge_run(run_directory, output, base=base, force=force)
    stdout().print(f"merged model: {escape(str(directory))}", soft_wrap=True)
