"""One job per process: evaluate the base, or tune one arm with one learning rate and seed and evaluate the result.

A job's folder holds all that it needs and makes:

    job.json          what to do (a `Job`)
    run/              the Run and its delta checkpoint
    states/           an Evaluation for each evaluated state, `step-20.json`, written as they come
    tasks/1/          of a sequence, in place of the two above: each task's Run, and the Evaluation after it
    relearning.json   the texts that are measured again after a few steps on old text
    evaluation.json   that of the last state; written last: its presence means the job is done
    progress.json     what the worker is doing now
    worker.log        the worker's output, for when it dies
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from oblong.comparing.texts import EvaluationCorpus, RelearnRule
from oblong.records import EvaluatedState, Evaluation, Part, RelearningProbe, Run

BASE: Final = "base"
JOB_FILE: Final = "job.json"
Dtype = Literal["bfloat16", "float32"]


class TaskTraining(Part):
    """One task of a sequence."""

    name: str
    train: Mapping[str, Any] = Field(description="the fields of a tuning recipe that are this task's own")


class Job(Part):
    """What one worker process does."""

    arm: str = Field(description="name of the arm, or `base`")
    seed: int
    folder: str
    model: str
    tune: Mapping[str, Any] | None = Field(
        description="a tuning recipe, or what the tasks of a sequence have in common; null for the base"
    )
    tasks: tuple[TaskTraining, ...] = Field(default=(), description="of a sequence, in the order of learning")
    relearn: RelearnRule | None = Field(default=None, description="with `texts` named")
    corpora: Mapping[str, EvaluationCorpus]
    window: int
    stride: int
    divergence: bool
    state_divergence: bool = False
    threads: int | None
    learning_rate: float | None = Field(default=None, description="for labels; null for the base")
    rate_name: str | None = Field(default=None, description="of an arm with a sweep: its learning rate, for labels")
    dtype: Dtype = "bfloat16"
    evaluate_at: tuple[int, ...] = ()
    hopeless_margin: float | None = None
    base_folder: str | None = Field(default=None, description="of the base's job, which is done before; null for it")
    suite: tuple[str, ...] = ()
    suite_limit: int | None = None
    num_evaluations: int = Field(default=1, description="of the base, for the noise floor")

    @property
    def path(self) -> Path:
        """The job's folder."""
        return Path(self.folder)

    @property
    def evaluation_file(self) -> Path:
        """Where the Evaluation goes."""
        return self.path / "evaluation.json"

    @property
    def base_evaluation_file(self) -> Path:
        """Where the base's Evaluation is."""
        return Path(self.base_folder or self.folder) / "evaluation.json"

    @property
    def noise_floor_file(self) -> Path:
        """Where the base's noise floors go, by corpus."""
        return self.path / "noise_floor.json"

    def state_file(self, step: int) -> Path:
        """Where the Evaluation of a state goes."""
        return self.path / "states" / f"step-{step}.json"

    def read_states(self) -> tuple[EvaluatedState, ...]:
        """The states that have been evaluated so far, by rising step."""
        steps = sorted(int(file.stem.removeprefix("step-")) for file in self.state_file(0).parent.glob("step-*.json"))
        return tuple(EvaluatedState(step=step, evaluation=Evaluation.read(self.state_file(step))) for step in steps)

    @property
    def run_folder(self) -> Path:
        """Where the Run goes; of a sequence, that of the last task that was learned."""
        return self.locate_run(max(0, len(self.list_learned()) - 1)) if self.tasks else self.path / "run"

    def locate_task(self, place: int) -> Path:
        """Where one task of a sequence goes; the first is 0, and its folder 1."""
        return self.path / "tasks" / str(place + 1)

    def locate_run(self, place: int) -> Path:
        """Where the Run of one task goes."""
        return self.locate_task(place) / "run"

    def locate_evaluation(self, place: int) -> Path:
        """Where the Evaluation after one task goes."""
        return self.locate_task(place) / "evaluation.json"

    def locate_told(self, place: int) -> Path:
        """Where the same goes of a model that is told the task of a text."""
        return self.locate_task(place) / "told.json"

    def read_task(self, place: int) -> Run:
        """The Run of one task that has been learned."""
        return Run.read(self.locate_run(place) / "run.json")

    def list_learned(self) -> tuple[TaskTraining, ...]:
        """The tasks that have been learned so far."""
        learned = [(self.locate_run(place) / "run.json").exists() for place in range(len(self.tasks))]
        return self.tasks[: learned.index(False) if False in learned else len(learned)]

    @property
    def relearning_file(self) -> Path:
        """Where the texts go that are measured after relearning."""
        return self.path / "relearning.json"

    def read_relearning(self) -> RelearningProbe | None:
        """The texts after relearning; None where nothing was relearned."""
        if not self.relearning_file.exists():
            return None
        return RelearningProbe.model_validate_json(self.relearning_file.read_text(encoding="utf-8"))

    @property
    def label(self) -> str:
        """Name for tables and messages."""
        if self.tune is None:
            return self.arm
        rate = "" if self.rate_name is None else f"lr {self.rate_name}, "
        return f"{self.arm}, {rate}seed {self.seed}"

    def is_done(self) -> bool:
        """Whether the job has finished, with this very configuration."""
        return self.evaluation_file.exists() and self.is_prepared()

    def is_prepared(self) -> bool:
        """Whether the folder belongs to this very configuration; threads decide rounding only and may differ."""
        found = self._read_prepared()
        return found is not None and found._flatten() == self._flatten()

    def find_differences(self) -> list[str]:
        """What the folder's configuration has otherwise; nothing where it has none that can be read."""
        found = self._read_prepared()
        if found is None:
            return []
        ours, theirs = self._flatten(), found._flatten()
        return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))

    def _read_prepared(self) -> Job | None:
        with suppress(OSError, ValueError):
            return Job.model_validate_json((self.path / JOB_FILE).read_text(encoding="utf-8"))
        return None

    def _flatten(self) -> dict[str, Any]:
        fields = self.model_dump(exclude={"threads", "tune"})
        train = {f"train.{name}": value for name, value in (self.tune or {}).items() if name != "threads"}
        return {**fields, **train}

    def prepare(self) -> None:
        """Make the folder and write what to do."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / JOB_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    def read_evaluation(self) -> Evaluation:
        """The finished job's Evaluation."""
        return Evaluation.read(self.evaluation_file)

    def read_run(self) -> Run:
        """The finished job's Run."""
        return Run.read(self.run_folder / "run.json")

    def read_runs(self) -> tuple[Run, ...]:
        """The finished job's trainings: one, or one for each task."""
        return tuple(map(self.read_task, range(len(self.list_learned())))) or (self.read_run(),)

    def report(
        self, stage: str, done: int, total: int, detail: str = "", *, changes: LossChanges | None = None
    ) -> None:
        """Say what the worker is doing; atomically, so that a reader never sees half of it."""
        progress = JobProgress(stage=stage, done=done, total=total, detail=detail, changes=changes)
        file = self.path / "progress.json"
        scratch = file.with_suffix(".tmp")
        scratch.write_text(progress.model_dump_json(), encoding="utf-8")
        scratch.replace(file)

    def read_progress(self) -> JobProgress:
        """What the worker last said."""
        with suppress(OSError, ValueError):
            return JobProgress.model_validate_json((self.path / "progress.json").read_text(encoding="utf-8"))
        return JobProgress(stage="waiting", done=0, total=1)


class LossChanges(Part):
    """How far the last evaluated state is from the base, nats per token."""

    step: int
    new_domain: float = Field(description="negative = learned")
    retention: float | None = Field(description="mean over the other texts, positive = forgotten; null without any")


class JobProgress(Part):
    """A worker's state."""

    stage: str
    done: int
    total: int
    detail: str = ""
    changes: LossChanges | None = None
