"""One job per process: evaluate the base, or tune one arm with one seed and evaluate the result.

A job's folder holds all that it needs and makes:

    job.json          what to do (a `Job`)
    run/              the Run and its delta checkpoint
    evaluation.json   written last: its presence means the job is done
    progress.json     what the worker is doing now
    worker.log        the worker's output, for when it dies
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from oblong.comparing.recipe import EvaluationCorpus
from oblong.records import Evaluation, Part, Run

BASE: Final = "base"


class Job(Part):
    """What one worker process does."""

    arm: str = Field(description="name of the arm, or `base`")
    seed: int
    folder: str
    model: str
    tune: Mapping[str, Any] | None = Field(description="a tuning recipe; null for the base")
    corpora: Mapping[str, EvaluationCorpus]
    window: int
    stride: int
    divergence: bool
    threads: int | None

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.folder)

    @property
    def evaluation_file(self) -> Path:
        """Where the Evaluation goes."""
        return self.path / "evaluation.json"

    @property
    def run_folder(self) -> Path:
        """Where the Run goes."""
        return self.path / "run"

    @property
    def label(self) -> str:
        """Name for tables and messages."""
        return self.arm if self.tune is None else f"{self.arm}, seed {self.seed}"

    def is_done(self) -> bool:
        """Whether the job has finished, with this very configuration."""
        return self.evaluation_file.exists() and self.is_prepared()

    def is_prepared(self) -> bool:
        """Whether the folder belongs to this very configuration."""
        try:
            return Job.model_validate_json((self.path / "job.json").read_text(encoding="utf-8")) == self
        except (OSError, ValueError):
            return False

    def prepare(self) -> None:
        """Make the folder and write what to do."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "job.json").write_text(self.model_dump_json(indent=1), encoding="utf-8")

    def read_evaluation(self) -> Evaluation:
        """The finished job's Evaluation."""
        return Evaluation.read(self.evaluation_file)

    def read_run(self) -> Run:
        """The finished job's Run."""
        return Run.read(self.run_folder / "run.json")

    def report(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Say what the worker is doing; atomically, so that a reader never sees half of it."""
        file = self.path / "progress.json"
        scratch = file.with_suffix(".tmp")
        scratch.write_text(json.dumps({"stage": stage, "done": done, "total": total, "detail": detail}))
        scratch.replace(file)

    def read_progress(self) -> JobProgress:
        """What the worker last said."""
        with suppress(OSError, ValueError):
            return JobProgress.model_validate_json((self.path / "progress.json").read_text(encoding="utf-8"))
        return JobProgress(stage="waiting", done=0, total=1)


class JobProgress(Part):
    """A worker's state."""

    stage: str
    done: int
    total: int
    detail: str = ""
