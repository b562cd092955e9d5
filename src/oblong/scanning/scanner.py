"""The scan: from a checkpoint to a Scan, one tensor at a time, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from oblong.checkpoints import Checkpoint
from oblong.errors import OutputExistsError, SelectionError
from oblong.records import Provenance, Scan, ScanConfig, ScanHeader, Unit
from oblong.scanning.devices import ComputeSpectra, choose_backend
from oblong.scanning.measuring import measure_batch
from oblong.scanning.partial import PartialScan, open_partial
from oblong.scanning.progress import ProgressCallback, ScanProgress
from oblong.scanning.streaming import WINDOW_BYTES, read_ahead
from oblong.scanning.subject import Model, open_subject
from oblong.scanning.worklist import Job, list_batches, list_jobs, list_loads

SPECTRA: Final = ("extremes", "full")


def scan(
    model: Model,
    *,
    output: Path | None = None,
    include: str | None = None,
    exclude: str | None = None,
    device: str = "cpu",
    spectrum: str = "extremes",
    fresh: bool = False,
    force: bool = False,
    on_progress: ProgressCallback | None = None,
    num_threads: int | None = None,
    heads: bool = False,
    stream: bool = False,
) -> Scan:
    """Measure every tensor of a checkpoint, or of a live module.

    Args:
        model: a directory, a checkpoint file, a Hub id, `demo`, or a `torch.nn.Module` (do not train it meanwhile).
        output: where the Scan is written, line by line, through `OUTPUT.partial`; None keeps it in memory only. An
            interrupted scan of the same model with the same options is continued.
        include: regular expression; only units whose name it matches somewhere are measured.
        exclude: regular expression; units whose name it matches are not measured. Both leave EXCLUDED rows.
        device: cpu, cuda or mps.
        spectrum: `extremes`, or `full` for the measures that need every singular value.
        fresh: whether to ignore an interrupted scan.
        force: whether to replace a finished `output`, once the new one is whole.
        on_progress: called in this thread as units are finished, and in another as shards are fetched.
        num_threads: threads on the CPU; every core that this process may use if None.
        heads: whether to measure every head of q, k, v and o as well, in rows of their own that no Plan chooses.
        stream: whether to fetch a Hub model shard by shard, with at most two shards on the disk, and delete them again.

    Returns:
        The Scan, in checkpoint order.

    Raises:
        ModelNotFoundError, UnsupportedFormatError, CorruptCheckpointError: see `locate_model`, `open_checkpoint`.
        UnreadableModuleError: a module with parameters that are meta, sharded or not initialised.
        SelectionError: an invalid model, filter, device, spectrum or number of threads.
        DownloadError: a shard could not be fetched; the same call goes on from there.
        OutputExistsError: `output` exists and `force` is false.
        OutputWriteError: the output cannot be written; what was finished is kept.
    """
    if spectrum not in SPECTRA:
        raise SelectionError(f"--spectrum {spectrum!r} is unknown; choose one of {', '.join(SPECTRA)}")
    if output is not None and output.exists() and not force:
        raise OutputExistsError(output)
    compute = choose_backend(device, full=spectrum == "full", num_threads=num_threads)
    config = ScanConfig(include=include, exclude=exclude, device=device, spectrum=spectrum, heads=heads)
    with open_subject(model, stream=stream) as subject:
        checkpoint = subject.checkpoint
        jobs = list_jobs(checkpoint, config)
        provenance = Provenance.here()
        header = ScanHeader(model=subject.name, checkpoint=checkpoint.info, config=config, provenance=provenance)
        with open_partial(output, header) if output else nullcontext() as partial:
            run = ScanRun(checkpoint, jobs, on_progress)
            run.start(partial, header, fresh=fresh)
            run.measure(config, compute)
            if partial is not None:
                partial.finish()
    return Scan(header=partial.header if partial else header, units=tuple(run.units))


class ScanRun:
    """The state of one scan: the units that are finished, in checkpoint order."""

    def __init__(self, checkpoint: Checkpoint, jobs: Sequence[Job], on_progress: ProgressCallback | None) -> None:
        self.units: list[Unit] = []
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._on_progress = on_progress or (lambda progress: None)
        self._partial: PartialScan | None = None
        self._total_work = sum(job.work for job in jobs)
        self._done_work = 0.0
        if checkpoint.remote is not None:
            checkpoint.remote.on_fetch = lambda name: self._say(f"fetching {name}")

    def start(self, partial: PartialScan | None, header: ScanHeader, *, fresh: bool) -> None:
        """Take over what an interrupted scan left, or begin the file."""
        self._partial = partial
        if partial is None:
            return
        if not fresh and not partial.is_empty:
            self.units = list(self._take_over(partial))
            self._done_work = sum(job.work for job in self._jobs[: len(self.units)])
        if not self.units:
            partial.begin(header)

    def measure(self, config: ScanConfig, compute: ComputeSpectra) -> None:
        """Make the units that are missing.

        A batch that was interrupted is computed again as a whole, so that every matrix meets the same neighbours, and
        gets the same bits, as in a scan that was never interrupted.
        """
        batches = list_batches(list_loads(self._jobs), WINDOW_BYTES)
        done, first = len(self.units), 0
        while first < len(batches) and (size := _count_units(batches[first])) <= done:
            done, first = done - size, first + 1
        with read_ahead(self._checkpoint, batches[first:]) as loaded_batches:
            for batch in loaded_batches:
                units = measure_batch(batch, config, compute)
                del batch
                for unit in units[done:]:
                    self._add(unit)
                done = 0

    def _take_over(self, partial: PartialScan) -> Sequence[Unit]:
        kept = partial.resume([job.unit.name for job in self._jobs])
        if kept is None:
            self._say(f"{partial.output.name}.partial is of another scan or model; starting afresh")
            return ()
        if self._checkpoint.remote is None and (changed := find_changed_tensor(self._checkpoint, kept)):
            self._say(f"{changed} has changed since the scan was interrupted; starting afresh")
            return ()
        if kept:
            self._say(f"resuming: {len(kept)} of {len(self._jobs)} units were finished before")
        return kept

    def _add(self, unit: Unit) -> None:
        if self._partial is not None:
            self._partial.append(unit)
        self._done_work += self._jobs[len(self.units)].work
        self.units.append(unit)
        self._report(detail=unit.name)

    def _say(self, message: str) -> None:
        self._report(message=message)

    def _report(self, **what: Any) -> None:
        self._on_progress(
            ScanProgress(
                done=len(self.units),
                total=len(self._jobs),
                done_work=self._done_work,
                total_work=self._total_work,
                **what,
            )
        )


def find_changed_tensor(checkpoint: Checkpoint, units: Sequence[Unit]) -> str | None:
    """The first tensor whose stored bytes are no longer those of a finished unit; None when all are.

    Reading and hashing take a fraction of the time of measuring, so a resumed scan can afford to be certain.
    """
    digests = {unit.tensor: unit.digest for unit in units if unit.digest is not None}
    tensors = (tensor for tensor in checkpoint.tensors if tensor.name in digests)
    return next((t.name for t in tensors if checkpoint.digest(t) != digests[t.name]), None)


def _count_units(batch: Sequence[Any]) -> int:
    return sum(len(load.jobs) for load in batch)
