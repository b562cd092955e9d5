"""`python -m oblong.comparing.worker FOLDER`: carry out one job in a process of its own.

A process per run keeps peak memory measurable, threads separate, and a crash to itself. A worker whose parent was
killed ends too, and a folder is locked while a worker is in it, so that two never write into the same run.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

from filelock import FileLock

from oblong.comparing.jobs import BASE, Job
from oblong.corpora import Documents, read_documents
from oblong.errors import OblongError
from oblong.evaluation.evaluate import Corpus, evaluate
from oblong.records import Evaluation
from oblong.tuning.recipe import TuneRecipe
from oblong.tuning.run import tune

WATCH_SECONDS: Final = 0.5


def main() -> int:
    """Run the job in the folder named on the command line."""
    job = Job.model_validate_json((Path(sys.argv[1]) / "job.json").read_text(encoding="utf-8"))
    end_with_parent()
    try:
        with FileLock(job.path / "lock"):
            carry_out(job)
    except OblongError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def end_with_parent() -> None:
    """Leave when the parent process is gone, killed without a chance to stop its workers."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def carry_out(job: Job) -> Evaluation:
    """Tune (unless this is the base, or it is tuned already), evaluate, and write the Evaluation last."""
    job.report("starting", 0, 1)
    delta: Path | None = None
    if job.tune is not None:
        recipe = TuneRecipe.model_validate(job.tune)
        if not (job.run_folder / "run.json").exists():
            tune(recipe, on_progress=lambda step, total, loss: job.report("tuning", step, total, f"loss {loss:.3f}"))
        delta = job.run_folder / "delta"
    evaluation = evaluate(
        job.model,
        read_corpora(job),
        delta=delta,
        base=job.model if delta is not None and job.divergence else None,
        name=job.arm if job.tune is not None else BASE,
        window=job.window,
        stride=job.stride,
        threads=job.threads,
        on_progress=lambda done, total: job.report("evaluating", done, total),
    )
    evaluation.write(job.evaluation_file, force=True)
    job.report("done", 1, 1)
    return evaluation


def read_corpora(job: Job) -> list[Corpus]:
    """The held-out texts, cut as the recipe says."""
    corpora = []
    for name, spec in job.corpora.items():
        documents = read_documents(spec.data, text_field=spec.text_field, limit=spec.documents, name=name)
        if spec.characters is not None:
            texts = tuple(text[: spec.characters] for text in documents.texts)
            documents = Documents(name=name, source=documents.source, texts=texts)
        corpora.append(Corpus(documents=documents, new_domain=spec.new_domain))
    return corpora


if __name__ == "__main__":
    sys.exit(main())
