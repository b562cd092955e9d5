"""`oblong tune`: fine-tune exactly a Plan's tensors, or an adapter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from oblong.records import DeltaManifest, Run, RunStatus

if TYPE_CHECKING:
    from oblong.tuning.recipe import TuneRecipe


def tune(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; the options below win over its fields.")] = None,
    model: Annotated[str | None, typer.Option(help="Directory, .safetensors or .gguf file, Hub id, or demo.")] = None,
    plan: Annotated[str | None, typer.Option(help="Plan whose tensors train, from `oblong plan`.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="What trains instead: lora, full, lisa, osf, columns, experts.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Training text: file, folder, Hub dataset, or bundled:NAME.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Field or column that holds the text.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hub dataset.")] = None,
    skip: Annotated[int | None, typer.Option(help="Leave the first so many documents out.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep the first so many documents of the others.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Directory of the Run.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; this or --epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the text; this or --steps.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens per training block.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Blocks per forward pass.")] = None,
    gradient_accumulation: Annotated[int | None, typer.Option(help="Forward passes per optimizer step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of AdamW.")] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "constant"] | None, typer.Option(help="Fall of the learning rate.")
    ] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps over which the learning rate rises.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    max_gradient_norm: Annotated[float | None, typer.Option(help="Global norm that gradients are clipped to.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option(help="Recompute activations: less memory, more time.")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Of frozen weights and arithmetic.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the text.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps per point of the loss curve.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between resume checkpoints; 0 for none.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    allow_other_weights: Annotated[
        bool | None, typer.Option(help="Accept a Plan made from other weights of the same names and shapes.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method against forgetting, with its default options.")] = None,
    anchor: Annotated[str | None, typer.Option(help="Old data for it: self_generated, bundled:NAME, a file.")] = None,
    after: Annotated[
        str | None,
        typer.Option(help="A finished run with the same Plan: go on from its weights and memory."),
    ] = None,
    keep_for_next: Annotated[
        bool | None, typer.Option(help="Keep what the method must know when another run goes on --after this one.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an unfinished run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a finished run of the same output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the Run as JSON on stdout and nothing else.")] = False,
) -> None:
    """Fine-tune exactly the tensors of a Plan, or an adapter, and prove that no other tensor moved.

    The output directory holds run.json and delta/, the changed tensors with the digest of every tensor of the base.
    Killed or interrupted, the same command goes on from the last checkpoint and ends in the same weights.

    An adapter's options (rank, budget, layers, ...) stand in a recipe: `adapter: {lora: {rank: 16}}`.

    Example: oblong tune --model demo --plan plan.yaml --data bundled:german-train --steps 100 -o runs/german
    """
    given = dict(locals())  # every option, by its recipe field's name
    resolved = resolve_recipe(given)
    if resolved.anchor is not None and not resolved.uses_anchor:
        held_by = "no method" if resolved.method is None else f"method {resolved.method.name}"
        warn(f"the anchor is not used: {held_by} takes no old data")
    yield_while_waiting()
    from oblong.tuning.run import tune as run_tuning

    try:
        with show_progress() as on_progress:
            run = run_tuning(resolved, on_progress=on_progress, resume=not fresh, force=force)
    except KeyboardInterrupt:
        note(f"unfinished: the same command goes on from the last checkpoint in {resolved.output}.partial")
        raise
    if as_json:
        print_json(run.model_dump_json(indent=1))
    else:
        print_summary(run, Path(resolved.output))


def resolve_recipe(given: Mapping[str, Any]) -> TuneRecipe:
    """The recipe file, if any, with the options on top.

    Raises:
        RecipeError: with mistakes, all of them listed.
    """
    from oblong.tuning.recipe import DataRecipe, TuneRecipe, build_recipe, read_recipe

    overrides = {name: value for name, value in given.items() if name in TuneRecipe.model_fields}
    text = {name: given[name] for name in DataRecipe.model_fields if given.get(name) is not None}
    if given["data"] is not None:
        text["source"] = given["data"]
    overrides["data"] = text or None
    if given["recipe"] is None:
        return build_recipe({}, overrides=overrides)
    return read_recipe(given["recipe"], overrides=overrides)


def yield_while_waiting() -> None:
    """Let OpenMP threads sleep at a barrier instead of spinning; must run before torch is imported.

    Spinning threads take the cores from each other as soon as anything else runs on the machine: on two busy cores it
    made a step five times slower (design/023). A policy that the user has set is left alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def show_progress() -> Iterator[Callable[[int, int, float], None]]:
    """A progress bar with the loss; off a terminal, a line for every tenth of the run."""
    with progress_bar("steps") as bar:
        task = bar.add_task("tuning", total=None, detail="loading the model")

        def on_progress(step: int, total: int, loss: float) -> None:
            bar.update(task, completed=step, total=total, detail=f"loss {loss:.3f}")
            if bar.disable and step % max(1, total // 10) == 0:
                stderr().print(f"step {step}/{total}  loss {loss:.3f}")

        yield on_progress


def print_summary(run: Run, output: Path) -> None:
    """What came out, and what to do next."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    manifest = DeltaManifest.read(output / run.delta / "manifest.json")
    for label, value in summarise_run(run, manifest):
        table.add_row(f"[bold]{label}[/bold]", value)
    console = stdout()
    console.print(table)
    peft = output / "adapter"
    for line in (
        "",
        f"run     {output / 'run.json'}",
        f"delta   {output / run.delta}",
        *([f"lora    {peft}, for PEFT and servers that load LoRA"] if peft.is_dir() else []),
        f"next    oblong verify {output}",
        f"        {suggest_use(run, manifest, output)}",
    ):
        console.print(escape(line), soft_wrap=True)
    if run.status is RunStatus.DIVERGED:
        warn(f"diverged at step {run.num_steps + 1}: the delta holds the weights before it; lower the learning rate")


def suggest_use(run: Run, manifest: DeltaManifest, output: Path) -> str:
    """The command that makes a model of the run: modules beside the base cannot be merged into it."""
    if manifest.modules is not None:
        return f"oblong evaluate {run.model} --delta {output / run.delta} --data TEXT"
    return f"oblong merge {output} -o {output}-merged"


def summarise_run(run: Run, manifest: DeltaManifest) -> list[tuple[str, str]]:
    """Label and value of each line of the summary."""
    losses = [point.loss for point in run.history if point.loss is not None]
    change = f"{losses[0]:.3f} -> {losses[-1]:.3f} nats per token" if losses else "not finite"
    share = run.num_trainable / run.num_parameters
    still = sum(1 for digest in manifest.changed.values() if not digest.fraction_moved)
    moved = f"{len(manifest.changed) - still} of {len(manifest.changed)} tensors"
    return [
        ("status", run.status.value),
        *([] if run.adapter is None else [("adapter", run.adapter)]),
        (
            "trained",
            f"{format_count(run.num_trainable)} of {format_count(run.num_parameters)} parameters ({share:.1%})",
        ),
        ("added", f"{manifest.modules.kind} for {', '.join(manifest.modules.tasks)}")
        if manifest.modules is not None
        else ("moved", moved),
        ("frozen", f"{len(manifest.frozen)} tensors, bit-identical to the base"),
        ("steps", f"{run.num_steps} ({format_count(run.num_tokens)} tokens in {format_seconds(run.seconds)})"),
        ("loss", change),
        ("speed", f"{run.tokens_per_second:.0f} tokens/s"),
        ("peak memory", format_bytes(run.peak_memory_bytes)),
    ]
