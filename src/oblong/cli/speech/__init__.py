"""`oblong speech`: speech for a language model, from the data to the transcripts."""

from __future__ import annotations

import typer

from oblong.cli.speech.demo import demo
from oblong.cli.speech.evaluate import evaluate
from oblong.cli.speech.fetch_data import fetch_data
from oblong.cli.speech.manifest import manifest
from oblong.cli.speech.report import report
from oblong.cli.speech.serve import serve
from oblong.cli.speech.train import train
from oblong.cli.speech.transcribe import transcribe

app = typer.Typer(help="Speech data, transcripts and word errors.", no_args_is_help=True)
app.command("fetch-data")(fetch_data)
app.command()(manifest)
app.command()(train)
app.command()(evaluate)
app.command()(transcribe)
app.command()(report)
app.command()(serve)
app.command()(demo)
