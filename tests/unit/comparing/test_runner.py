"""Jobs in processes of their own: done ones are skipped, dead ones are explained, foreign ones are left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oblong.comparing import runner
from oblong.comparing.jobs import Job
from oblong.comparing.runner import run_jobs
from oblong.comparing.texts import EvaluationCorpus
from oblong.errors import OutputExistsError, WorkerError

WRITE_RESULT = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'evaluation.json').write_text('{}')"
DIE = "import sys; sys.exit('Killed: out of memory')"


def make_job(folder: Path, **fields: Any) -> Job:
    values: dict[str, Any] = {
        "arm": folder.name,
        "seed": 0,
        "folder": str(folder),
        "model": "demo",
        "tune": {"steps": 3},
        "corpora": {"german": EvaluationCorpus(data="g.txt", new_domain=True)},
        "window": 64,
        "stride": 32,
        "divergence": True,
        "threads": 1,
    }
    return Job(**(values | fields))


class FakeWorkers:
    """Starts a script per arm instead of the worker, and remembers which arms were started."""

    def __init__(self) -> None:
        self.scripts: dict[str, str] = {}
        self.started: list[str] = []
        self._popen: Any = subprocess.Popen

    def __call__(self, command: list[str], **options: Any) -> Any:
        folder = Path(command[-1])
        self.started.append(folder.name)
        return self._popen([sys.executable, "-c", self.scripts.get(folder.name, WRITE_RESULT), str(folder)], **options)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    """Replace the worker process."""
    fake = FakeWorkers()
    monkeypatch.setattr(subprocess, "Popen", fake)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    return fake


def test_every_job_runs_once_and_is_not_run_again(tmp_path: Path, workers: FakeWorkers) -> None:
    jobs = [make_job(tmp_path / name) for name in "abc"]
    run_jobs(jobs, num_workers=2)
    assert all(job.is_done() for job in jobs)
    run_jobs(jobs, num_workers=2)
    assert sorted(workers.started) == ["a", "b", "c"]


def test_a_dead_job_is_explained_after_the_others_have_finished(tmp_path: Path, workers: FakeWorkers) -> None:
    workers.scripts["a"] = DIE
    jobs = [make_job(tmp_path / name) for name in "abc"]
    with pytest.raises(WorkerError, match=r"a, seed 0 failed(.|\n)*worker\.log(.|\n)*Killed: out of memory") as caught:
        run_jobs(jobs, num_workers=1)
    assert caught.value.exit_code == 1
    assert [job.is_done() for job in jobs] == [False, True, True]


def test_a_job_whose_log_is_gone_is_still_named(tmp_path: Path, workers: FakeWorkers) -> None:
    workers.scripts["a"] = "import shutil, sys; shutil.rmtree(sys.argv[1]); sys.exit(1)"
    with pytest.raises(WorkerError, match=r"a, seed 0 failed(.|\n)*cannot be read"):
        run_jobs([make_job(tmp_path / "a")], num_workers=1)


def test_results_of_another_configuration_are_not_overwritten(tmp_path: Path, workers: FakeWorkers) -> None:
    run_jobs([make_job(tmp_path / "a")], num_workers=1)
    other = make_job(tmp_path / "a", window=128, tune={"steps": 4})
    with pytest.raises(OutputExistsError, match=r"exists already: .*\(train\.steps, window\).*--fresh"):
        run_jobs([other], num_workers=1)
    assert (tmp_path / "a" / "evaluation.json").read_text() == "{}"


def test_other_threads_are_no_other_configuration(tmp_path: Path, workers: FakeWorkers) -> None:
    run_jobs([make_job(tmp_path / "a")], num_workers=1)
    assert make_job(tmp_path / "a", threads=2, tune={"steps": 3, "threads": 2}).is_done()


def test_interruption_stops_the_workers(tmp_path: Path, workers: FakeWorkers) -> None:
    workers.scripts["a"] = "import time; time.sleep(60)"
    job = make_job(tmp_path / "a")

    def interrupt(jobs: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], num_workers=1, on_poll=interrupt)
    assert not job.is_done()
