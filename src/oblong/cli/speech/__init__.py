"""`oblong speech`: speech for a language model, from the data to the transcripts."""

from __future__ import annotations

import typer

from oblong.cli.speech.fetch_data import fetch_data

app = typer.Typer(help="Add speech to a language model without losing its language.", no_args_is_help=True)


@app.callback()
def speech() -> None:
    """Hold the commands; without this a single command would swallow its own name."""


app.command("fetch-data")(fetch_data)
