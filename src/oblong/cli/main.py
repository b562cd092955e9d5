"""Entry point: the list of commands, and the only place that prints errors and chooses exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import typer
from rich.markup import escape

from oblong.cli.terminal import stderr
from oblong.errors import OblongError

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="oblong",
    help="Find the weights of a pre-trained model that can be fine-tuned without breaking what it knows, tune exactly "
    "those, and measure what was learned and what was forgotten.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run oblong; exit 0 on success, 2 for a mistake in the request, 1 for a failure, 130 after Ctrl-C."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    command = typer.main.get_command(app)
    try:
        outcome = command.main(args=list(arguments), prog_name="oblong", standalone_mode=False)
    except OblongError as error:
        stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        stderr().print("\n[yellow]interrupted[/yellow]")
        return EXIT_INTERRUPTED
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    main()
