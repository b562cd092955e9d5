"""`oblong speech train`: teach a language model to hear, and watch what becomes of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from oblong.cli.terminal import (
    format_bytes,
    format_count,
    format_seconds,
    note,
    print_json,
    progress_bar,
    stderr,
    stdout,
    warn,
)
from oblong.cli.tune import yield_while_waiting
from oblong.errors import OtherProcessError
from oblong.records import SpeechPoint, SpeechRun, SpeechRunStatus

if TYPE_CHECKING:
    from oblong.speech.training import SpeechProgress, SpeechTrainRecipe
    from oblong.speech.training.forecast import SpeechForecast

EXIT_UNFINISHED: Final = 1


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or the name of one that ships with oblong.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a field: adapt.steps=200. May be repeated.", metavar="KEY=VALUE"),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Directory of the run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and train nothing but a few timed steps.")
    ] = False,
    num_processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="With --dry-run: forecast for so many GPUs; default: as launched."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an unfinished run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a finished run of the same output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON document.")] = False,
) -> None:
    """Teach a language model to hear: align an adaptor, then train an arm's tensors; WER and text beside each other.

    The output directory holds run.json, the recipe, and the checkpoints aligned/, best/ and last/, which `oblong speech
    evaluate` and `transcribe` take as a MODEL. Killed or interrupted, the same command goes on from the last
    checkpoint and ends in the same weights. Under torchrun or accelerate launch the GPUs share every batch.

    Example: oblong speech train recipe.yaml --set adapt.arm.plan=plan.yaml -o runs/kappa-lowest
    """
    yield_while_waiting()
    from oblong.recipes import find_recipe
    from oblong.speech.training import read_speech_recipe, train_speech
    from oblong.speech.training.method_fit import reads_old_text
    from oblong.speech.training.processes import is_first_process

    path = find_recipe(recipe, speech=True)
    given = [*(settings or []), *([] if output is None else [f"output={output}"])]
    resolved = read_speech_recipe(path, settings=given)
    speaks = is_first_process()
    adapt = resolved.adapt
    if speaks and adapt.anchor is not None and not reads_old_text(adapt.method, adapt.anchor):
        reason = "there is no method" if adapt.method is None else f"method {adapt.method.name} takes no old text"
        warn(f"adapt.anchor is not used: {reason}")
    if speaks and resolved.spell is not None and resolved.align.start_from is not None:
        warn(f"spell is not used: align.start_from takes the adaptor of {resolved.align.start_from} as it is")
    if dry_run:
        if speaks:
            show_forecast(resolved, path, num_processes=num_processes, as_json=as_json)
        return
    try:
        with show_progress() if speaks else nullcontext() as on_progress:
            run = train_speech(resolved, on_progress=on_progress, resume=not fresh, force=force, path=path)
    except KeyboardInterrupt:
        if speaks:
            note(f"unfinished: the same command goes on from the last checkpoint in {resolved.output}.partial")
        raise
    except OtherProcessError:
        # The launcher ends all processes as soon as one fails, and the first still has to say why.
        return
    if not speaks:
        return
    if as_json:
        print_json(run.model_dump_json(indent=1))
    else:
        print_run(run, Path(resolved.output))
    if run.status in (SpeechRunStatus.DIVERGED, SpeechRunStatus.NOT_ALIGNED):
        raise typer.Exit(EXIT_UNFINISHED)


def show_forecast(recipe: SpeechTrainRecipe, path: Path, *, num_processes: int | None, as_json: bool) -> None:
    """Print what a training would take."""
    from oblong.speech.training.forecast import forecast_training
    from oblong.speech.training.processes import count_processes

    forecast = forecast_training(recipe, path, num_processes=num_processes or count_processes())
    if as_json:
        print_json(forecast.model_dump_json(indent=1))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in describe_forecast(forecast):
        table.add_row(f"[bold]{label}[/bold]", value)
    stdout().print(table)
    for remark in forecast.notes:
        note(escape(remark))


def describe_forecast(forecast: SpeechForecast) -> Iterator[tuple[str, str]]:
    """Label and value of each line."""
    yield "encoder", f"{format_count(forecast.num_encoder)} parameters, frozen"
    yield "adaptor", f"{format_count(forecast.num_adaptor)} parameters, trained in both stages"
    trained = f"{format_count(forecast.num_arm)} trained ({forecast.num_arm / forecast.num_language_model:.1%})"
    yield "language model", f"{format_count(forecast.num_language_model)} parameters, {trained}"
    yield "memory", format_bytes(forecast.memory_bytes) + describe_division(forecast)
    yield "  weights", format_bytes(forecast.weight_bytes)
    yield "  optimizer", f"{format_bytes(forecast.optimizer_bytes)}, gradients included"
    yield "  activations", f"up to {format_bytes(forecast.activation_bytes)}, an estimate"
    if forecast.method_bytes:
        yield "  method", f"up to {format_bytes(forecast.method_bytes)}, in stage B"
    yield "steps", f"at most {forecast.align_steps} to align, {forecast.adapt_steps} to adapt"
    beside = f", and {forecast.method_tokens} of old text in stage B" if forecast.method_tokens else ""
    yield "tokens per step", f"at most {forecast.tokens_per_step}{beside}"
    if forecast.seconds_per_step is None:
        return
    total = (forecast.align_steps + forecast.adapt_steps) * forecast.seconds_per_step
    beside = ", the method's not counted" if forecast.method_bytes else ""
    if forecast.method_seconds is not None:
        total += forecast.adapt_steps * forecast.method_seconds
        beside = f", and {format_seconds(forecast.method_seconds)} for the method in stage B"
    yield "time per step", format_seconds(forecast.seconds_per_step) + beside
    yield "training", f"at most {format_seconds(total)}, evaluations not counted"


def describe_division(forecast: SpeechForecast) -> str:
    """What several processes divide; nothing where there is one."""
    if forecast.num_processes == 1:
        return ""
    frozen = "divided in stage B" if forecast.sharded_bytes else "whole on each (shard_frozen: true divides them)"
    return f" on each of {forecast.num_processes} GPUs; frozen layers are {frozen}"


@contextmanager
def show_progress() -> Iterator[Callable[[SpeechProgress], None]]:
    """One bar with loss, gap, WER and retention; off a terminal, lines for evaluations and every tenth of the way."""
    with progress_bar("") as bar:
        task = bar.add_task("preparing", total=None, detail="loading models")
        console = stderr()

        def on_progress(progress: SpeechProgress) -> None:
            name = progress.activity if progress.stage is None else f"{progress.stage.value}: {progress.activity}"
            detail = describe_progress(progress)
            bar.update(task, description=name, completed=progress.done, total=progress.total, detail=detail)
            if not bar.disable:
                return
            if is_worth_a_line(progress):
                console.print(f"{name} {progress.done}/{progress.total}  {detail}", markup=False, soft_wrap=True)

        yield on_progress


def is_worth_a_line(progress: SpeechProgress) -> bool:
    """Where there is no bar: an evaluation, or a tenth of what is going on."""
    if progress.activity == "evaluated":
        return True
    if not progress.done or not progress.total:
        return False
    return progress.done * 10 // progress.total > (progress.done - 1) * 10 // progress.total


def describe_progress(progress: SpeechProgress) -> str:
    """The newest numbers in one line."""
    parts = [] if progress.loss is None else [f"loss {progress.loss:.2f}"]
    point = progress.point
    if point is not None:
        if progress.loss is None and point.loss is not None:
            parts.append(f"loss {point.loss:.2f}")
        parts.append(f"gap {point.alignment_gap:+.1%}")
        parts += [f"WER {errors.wer:.1%} {name}" for name, errors in point.wer.items() if errors.wer is not None]
        if point.worst_retention is not None:
            parts.append(f"perplexity x {point.worst_retention:.3f}")
    return "  ".join(parts)


def print_run(run: SpeechRun, output: Path) -> None:
    """The table of evaluations, what came out, and what to do next."""
    console = stdout()
    console.print(tabulate_points(run))
    for line in describe_run(run):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"run     {output / 'run.json'}", markup=False, soft_wrap=True)
    if run.best is not None:
        best = output / run.best.directory
        console.print(f"best    {best}", markup=False, soft_wrap=True)
        console.print(f"next    oblong speech transcribe {best} AUDIO", markup=False, soft_wrap=True)
    if run.status in (SpeechRunStatus.DIVERGED, SpeechRunStatus.NOT_ALIGNED):
        warn(escape(run.reason))


def tabulate_points(run: SpeechRun) -> Table:
    """One row for each evaluation."""
    sets, texts = list(run.evaluate), list(run.base_retention)
    table = Table(title=f"{run.name}: {run.arm.description}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("stage", "step", "time", "loss", "gap", "accuracy"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name in sets:
        table.add_column(f"WER {escape(name)}", justify="right")
    for name in texts:
        table.add_column(f"ppl x {escape(name)}", justify="right")
    for point in run.points:
        table.add_row(*make_row(point, sets, texts), style="bold" if is_best(run, point) else None)
    return table


def make_row(point: SpeechPoint, sets: list[str], texts: list[str]) -> list[str]:
    """The cells of one evaluation; a dash where something was not measured."""
    rates = [point.wer[name].wer if name in point.wer else None for name in sets]
    return [
        point.stage.value,
        str(point.step),
        format_seconds(point.seconds),
        "-" if point.loss is None else f"{point.loss:.3f}",
        f"{point.alignment_gap:+.1%}",
        f"{point.token_accuracy:.1%}",
        *("-" if rate is None else f"{rate:.1%}" for rate in rates),
        *(f"{point.retention[name].ratio:.4f}" for name in texts),
    ]


def is_best(run: SpeechRun, point: SpeechPoint) -> bool:
    """Whether the best checkpoint is of this evaluation."""
    return run.best is not None and (run.best.stage, run.best.step) == (point.stage, point.step)


def describe_run(run: SpeechRun) -> Iterator[str]:
    """What came out, in sentences."""
    yield ""
    yield f"{run.status.value}: {run.reason}"
    trained = f"{format_count(run.num_adaptor)} parameters of the adaptor"
    if run.arm.num_trainable:
        trained += f" and {format_count(run.arm.num_trainable)} of the language model"
    yield f"trained {trained}, of {format_count(run.num_parameters)} in all"
    for stage in run.stages:
        speed = stage.num_tokens / stage.seconds if stage.seconds else 0.0
        yield (
            f"{stage.stage.value}: {stage.num_steps} steps, {stage.num_utterances} utterances in "
            f"{format_seconds(stage.seconds)} ({speed:.0f} tokens/s)"
        )
    skipped = [item for data in (*run.train, *run.evaluate.values()) for item in data.skipped]
    if skipped:
        yield f"{len(skipped)} recordings were skipped, the first: {skipped[0].audio}: {skipped[0].reason}"
    if run.best is not None:
        kept = "" if run.best.retention is None else f", perplexity x {run.best.retention:.4f}"
        yield (
            f"best: WER {run.best.wer:.1%} at {run.best.stage.value} step {run.best.step}{kept}; it was chosen on "
            "these very sets, so report another one's"
        )
