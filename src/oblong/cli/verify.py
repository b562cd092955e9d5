"""`oblong verify`: prove from the files that a run changed the Plan's tensors and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from oblong.cli.terminal import stdout


def verify(
    run_directory: Annotated[Path, typer.Argument(help="Output of `oblong tune`, or a speech delta.")],
    model: Annotated[str | None, typer.Option(help="Also check this merged model, bit for bit.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The base or language model, if it is no longer where it was."),
    ] = None,
) -> None:
    """Prove that every tensor outside the Plan is bit-identical to the base and that those inside moved.

    Everything is read from the disk: the base model, the Plan, the delta and its manifest. A tensor that is not what
    it should be is named, and the exit code is 1.

    Example: oblong verify runs/german --model runs/german-merged
    """
    from oblong.records import SPEECH_DELTA_FILE

    if (run_directory / SPEECH_DELTA_FILE).is_file():
        from oblong.speech.arms import verify_speech_delta

        verification = verify_speech_delta(run_directory, language_model=base, merged=model)
    else:
        from oblong.tuning.verify import verify_run

        verification = verify_run(run_directory, base=base, merged=model)
    table = Table("proved", "tensors", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    for check in verification.checks:
        table.add_row(check.statement, str(check.num_tensors))
    console = stdout()
    console.print(table)
    moved = f"{verification.fraction_moved:.1%} of the trained weights moved"
    if getattr(verification, "modules", None) is not None:
        moved = f"{verification.modules} beside a base that is whole"
    console.print(f"[bold green]verified[/bold green] {escape(str(run_directory))}: {moved}", soft_wrap=True)
