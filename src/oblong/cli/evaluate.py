"""`oblong evaluate`: how well a model predicts held-out text and answers questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from oblong.cli.terminal import print_json, progress_bar, stdout
from oblong.errors import DataError, OutputExistsError

if TYPE_CHECKING:
    from rich.table import Table

    from oblong.evaluation import Corpus
    from oblong.records import Evaluation, Interval


def evaluate(
    model: Annotated[str, typer.Argument(help="A directory, .safetensors or .gguf file, Hub id, or `demo`.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Held-out text: SOURCE or NAME=SOURCE; a file, folder, Hub dataset or bundled:NAME. Repeat."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Questions: `small` (bundled), tasks of lm-eval with commas between (hellaswag,arc_easy), or a task "
            "file of lm-eval (*.yaml)."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="An Evaluation file of the base with the same suite: what was lost and gained?")
    ] = None,
    new: Annotated[
        list[str] | None, typer.Option(help="Name of a corpus that is the new domain, as against general text.")
    ] = None,
    delta: Annotated[Path | None, typer.Option(help="A delta checkpoint to put on the model: RUN_DIR/delta.")] = None,
    base: Annotated[str | None, typer.Option(help="A model to compute the KL divergence from, usually MODEL.")] = None,
    window: Annotated[int, typer.Option(help="Context, tokens.")] = 512,
    stride: Annotated[int, typer.Option(help="Tokens newly predicted per window.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 4,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use the first so many documents of each corpus, and questions of each task."),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field or column with the text, in JSON, CSV and Parquet.")] = "text",
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of the weights in memory.")] = "bfloat16",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the Evaluation to this JSON file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the Evaluation as one JSON document.")] = False,
) -> None:
    """Measure how well a model predicts text (loss, perplexity, bits per byte, KL to a base) and answers questions.

    Every document is scored by strided windows, so each token is predicted once, with at least WINDOW - STRIDE tokens
    of context wherever the document has them. Perplexity is exp(total NLL / total tokens).

    Example: oblong evaluate demo --data english=bundled:english-prose --data code=bundled:python-code --limit 8

    Example: oblong evaluate demo --delta run/delta --suite small --against base.json
    """
    from oblong.corpora.questions import parse_suite
    from oblong.evaluation import evaluate as run_evaluation

    if output is not None and output.exists() and not force:
        raise OutputExistsError(output)
    tasks = () if suite is None else parse_suite(suite)
    before = None if against is None else read_before(against, tasks)
    corpora = read_corpora(data or [], new or [], text_field=text_field, limit=limit)
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=None, detail="")
        evaluation = run_evaluation(
            model,
            corpora,
            delta=delta,
            base=base,
            suite=tasks,
            suite_limit=limit,
            window=window,
            stride=stride,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if output is not None:
        evaluation.write(output, force=force)
    if as_json:
        print_json(evaluation.model_dump_json(indent=1))
    else:
        show(evaluation, output)
        if before is not None:
            show_changes(before, evaluation)


def read_corpora(
    entries: Sequence[str], new_domains: Sequence[str], *, text_field: str, limit: int | None
) -> list[Corpus]:
    """Read every SOURCE or NAME=SOURCE.

    Raises:
        DataError: a text cannot be read, or a new domain is none of the corpora.
    """
    from oblong.corpora import read_documents
    from oblong.evaluation import Corpus

    texts = [
        read_documents(source, name=name, text_field=text_field, limit=limit)
        for name, source in map(split_entry, entries)
    ]
    names = [documents.name for documents in texts]
    unknown = next((name for name in new_domains if name not in names), None)
    if unknown is not None:
        raise DataError(f"--new {unknown!r} is none of the corpora: {', '.join(names)}")
    return [Corpus(documents=documents, new_domain=documents.name in new_domains) for documents in texts]


def read_before(file: Path, tasks: Sequence[str]) -> Evaluation:
    """The Evaluation to compare answers with, read before hours of work depend on it.

    Raises:
        RecordError: it is no Evaluation.
        DataError: it holds no answers, or this call asks no questions.
    """
    from oblong.records import Evaluation

    before = Evaluation.read(file)
    if not tasks:
        raise DataError("--against compares answers to questions: give the --suite that the file was made with")
    if not before.suite:
        raise DataError(f"{file}: holds no answers to a suite; make it with --suite {','.join(tasks)} -o FILE")
    return before


def split_entry(entry: str) -> tuple[str | None, str]:
    """`NAME=SOURCE` apart; an `=` inside a path or a Hub id is part of it."""
    name, separator, source = entry.partition("=")
    if separator and source and name and not set(name) & set("/\\:"):
        return name, source
    return None, entry


def compute_intervals(evaluation: Evaluation) -> Mapping[str, Interval]:
    """Intervals of the losses; a corpus of one document has none."""
    from oblong.evaluation import bootstrap_loss

    return {
        name: bootstrap_loss(score.documents) for name, score in evaluation.corpora.items() if len(score.documents) > 1
    }


def show(evaluation: Evaluation, output: Path | None) -> None:
    """Print the table, the drift and where it lies."""
    from oblong.reporting.evaluation_tables import describe_answers, describe_drift, render_evaluation

    console = stdout()
    if evaluation.corpora:
        console.print(render_evaluation(evaluation, compute_intervals(evaluation)))
    if evaluation.suite:
        console.print(render_answers(evaluation))
    for sentence in describe_answers(evaluation):
        console.print(sentence, markup=False)
    drift = describe_drift(evaluation)
    if drift is not None:
        console.print(drift)
    if output is not None:
        console.print(f"wrote {output}", markup=False, soft_wrap=True)


def render_answers(evaluation: Evaluation) -> Table:
    """The suite of an Evaluation with intervals."""
    from oblong.evaluation import compute_wilson
    from oblong.reporting.suite_tables import render_suite

    intervals = {task: compute_wilson(score.num_right, len(score.right)) for task, score in evaluation.suite.items()}
    return render_suite(evaluation.suite, intervals)


def show_changes(before: Evaluation, after: Evaluation) -> None:
    """Print what became of the answers, as a table and in words."""
    from oblong.evaluation import compute_task_changes
    from oblong.reporting.suite_tables import describe_task_changes, render_task_changes

    changes = compute_task_changes(before.suite, [after.suite], arm=after.name)
    console = stdout()
    title = f"answers of {after.name} against {before.name}"
    console.print(render_task_changes(changes, title=title, width=console.width))
    for sentence in describe_task_changes(changes):
        console.print(sentence, markup=False)
