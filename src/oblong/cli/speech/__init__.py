"""`oblong speech`: a language model that hears."""

from __future__ import annotations

import typer

from oblong.cli.speech.evaluate import evaluate
from oblong.cli.speech.transcribe import transcribe

app = typer.Typer(help="Transcribe speech with a model, and count its errors.", no_args_is_help=True)
app.command()(evaluate)
app.command()(transcribe)
