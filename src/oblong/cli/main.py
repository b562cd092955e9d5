"""Entry point: the list of commands, and the only place that prints errors and chooses exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import typer
from rich.markup import escape

from oblong.cli.cache import app as cache_app
from oblong.cli.compare import compare
from oblong.cli.demo import demo
from oblong.cli.evaluate import evaluate
from oblong.cli.fetch import fetch
from oblong.cli.merge import merge
from oblong.cli.plan import plan
from oblong.cli.report import report
from oblong.cli.scan import scan
from oblong.cli.show import show
from oblong.cli.speech import app as speech_app
from oblong.cli.terminal import stderr, stdout
from oblong.cli.tune import tune
from oblong.cli.verify import verify
from oblong.errors import OblongError, UserError
from oblong.records.base import Provenance

EXIT_INTERRUPTED: Final = 130

# typer carries click inside itself or beside itself, depending on its version; its usage errors (unknown option, bad
# value) share the one base that typer's own BadParameter has: BadParameter < UsageError < ClickException.
CommandLineError: Final[type[Any]] = typer.BadParameter.__mro__[2]

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
    except typer.Exit as error:
        return error.exit_code
    except CommandLineError as error:
        return report_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        stderr().print("\n[yellow]interrupted[/yellow]")
        return EXIT_INTERRUPTED
    return outcome if isinstance(outcome, int) else 0


def report_usage(error: Any) -> int:
    """Print a usage error the way typer does; exit code 2."""
    error.show()
    return UserError.exit_code


@app.callback()
def oblong() -> None:
    """Hold the commands; without this a single command would swallow its own name."""


@app.command()
def version() -> None:
    """Print the version of oblong and of the libraries its results depend on."""
    provenance = Provenance.here()
    packages = ", ".join(f"{name} {release}" for name, release in provenance.packages.items())
    stdout().print(f"oblong {provenance.oblong_version} (Python {provenance.python_version}, {packages})")


app.command()(fetch)
app.command()(scan)
app.command()(show)
app.command()(plan)
app.command()(evaluate)
app.command()(tune)
app.command()(verify)
app.command()(merge)
app.command()(compare)
app.command()(report)
app.command()(demo)
app.add_typer(speech_app, name="speech")
app.add_typer(cache_app, name="cache")


if __name__ == "__main__":
    main()
