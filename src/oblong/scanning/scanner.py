"""The scan: from a checkpoint to a Scan, one tensor at a time, resumable."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Final

from oblong.checkpoints import Checkpoint
from oblong.errors import OutputExistsError, SelectionError
from oblong.records import PackedSpectrum, Provenance, Scan, ScanConfig, ScanHeader, SpectraFile, Unit
from oblong.records.spectra import get_spectra_path
from oblong.scanning.cache import SpectrumCache, open_cache
from oblong.scanning.devices import ComputeSpectra, Feed, choose_backend, choose_feed, count_cores, resolve_device
from oblong.scanning.finding import FinishedUnit
from oblong.scanning.measuring import collect_findings, measure_batch
from oblong.scanning.on_ray import HostNotes, check_request, iter_outcomes, make_request
from oblong.scanning.partial import PartialScan, get_partial_path, open_partial
from oblong.scanning.progress import ProgressCallback, ScanProgress
from oblong.scanning.spreading import list_tasks
from oblong.scanning.streaming import BUDGET_BYTES, WINDOW_BYTES, read_ahead
from oblong.scanning.subject import Model, open_subject
from oblong.scanning.worklist import Batch, Job, list_batches, list_jobs, list_loads

SPECTRA: Final = ("extremes", "full")


def scan(
    model: Model,
    *,
    output: Path | None = None,
    include: str | None = None,
    exclude: str | None = None,
    device: str = "cpu",
    spectrum: str = "extremes",
    precision: str = "auto",
    fresh: bool = False,
    force: bool = False,
    on_progress: ProgressCallback | None = None,
    num_threads: int | None = None,
    heads: bool = False,
    stream: bool = False,
    cache: bool = True,
    ray: str | None = None,
) -> Scan:
    """Measure every tensor of a checkpoint, or of a live module.

    Args:
        model: a directory, a checkpoint file, a Hub id, `demo`, or a `torch.nn.Module` (do not train it meanwhile).
        output: where the Scan is written, line by line, through `OUTPUT.partial`; None keeps it in memory only. An
            interrupted scan of the same model with the same options is continued.
        include: regular expression; only units whose name it matches somewhere are measured.
        exclude: regular expression; units whose name it matches are not measured. Both leave EXCLUDED rows.
        device: cpu or cuda; mps falls back to the CPU with a message, and the record says cpu.
        spectrum: `extremes`, or `full` for every singular value and the measures that need them. The values are in
            `OUTPUT.spectra`, or with the returned Scan where there is no output: see `Scan.singular_values`.
        precision: `auto` lets float32 do the heavy part of large matrices where float64 can check it, with the same
            error bound; `float64` does not. For the CPU; accelerators compute in float64.
        fresh: whether to ignore an interrupted scan.
        force: whether to replace a finished `output`, once the new one is whole.
        on_progress: called in this thread as units are finished, and in another as shards are fetched.
        num_threads: threads on the CPU; every core that this process may use if None.
        heads: whether to measure every head of q, k, v and o as well, in rows of their own that no Plan chooses.
        stream: whether to fetch a Hub model shard by shard, with at most two shards on the disk, and delete them again.
        cache: whether to take what earlier scans found about the same stored bytes, and to add what this one finds.
            The Scan has the same digest either way.
        ray: address of a Ray cluster whose nodes do the work, or `local` for one on this machine.

    Returns:
        The Scan, in checkpoint order.

    Raises:
        ModelNotFoundError, UnsupportedFormatError, CorruptCheckpointError: see `locate_model`, `open_checkpoint`.
        UnreadableModuleError: a module with parameters that are meta, sharded or not initialised.
        SelectionError: an invalid model, filter, device, spectrum, precision or number of threads.
        DownloadError: a shard could not be fetched; the same call goes on from there.
        OutputExistsError: `output`, or a file of singular values under its name, exists and `force` is false.
        OutputWriteError: the output cannot be written; what was finished is kept.
        MissingExtraError, OperationalError, WorkerError: see `oblong.scanning.on_ray`.
    """
    if spectrum not in SPECTRA:
        raise SelectionError(f"--spectrum {spectrum!r} is unknown; choose one of {', '.join(SPECTRA)}")
    if output is not None and not force:
        check_output(output, full=spectrum == "full")
    device, warning = resolve_device(device)
    if ray is not None:
        check_request(device, ray)
    threads = num_threads or count_cores()
    compute = choose_backend(device, full=spectrum == "full", num_threads=num_threads, precision=precision)
    config = ScanConfig(
        include=include, exclude=exclude, device=device, spectrum=spectrum, precision=precision, heads=heads
    )
    with open_subject(model, stream=stream) as subject:
        checkpoint = subject.checkpoint
        cache = cache and subject.is_stored
        if ray is not None and not subject.is_local:
            raise SelectionError("ray spreads a model whose files every node sees: not a live module, not stream")
        jobs = list_jobs(checkpoint, config)
        provenance = Provenance.here()
        header = ScanHeader(model=subject.name, checkpoint=checkpoint.info, config=config, provenance=provenance)
        with open_partial(output, header) if output else nullcontext() as partial:
            run = ScanRun(checkpoint, jobs, on_progress)
            run.warn(warning)
            run.start(partial, header, fresh=fresh)
            if ray is None:
                found = open_cache(checkpoint, config, threads) if cache else None
                run.measure(config, compute, found, choose_feed(device))
            else:
                run.measure_on_ray(ray, config, num_threads=threads, use_cache=cache)
            if partial is not None:
                partial.finish(run.units)
    made = Scan(header=partial.header if partial else header, units=run.units)
    if spectrum != "full":
        return made
    return made.with_spectra(run.spectra if output is None else SpectraFile(get_spectra_path(output)))


def check_output(output: Path, *, full: bool) -> None:
    """Make sure that nothing finished would be replaced.

    Raises:
        OutputExistsError: something would.
    """
    if output.exists():
        raise OutputExistsError(output)
    # A scan that was interrupted as it finished has named its singular values already.
    is_interrupted = get_partial_path(output).exists()
    if full and not is_interrupted and (companion := get_spectra_path(output)).exists():
        raise OutputExistsError(companion)


class ScanRun:
    """The state of one scan: which units are finished."""

    def __init__(self, checkpoint: Checkpoint, jobs: Sequence[Job], on_progress: ProgressCallback | None) -> None:
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._is_watched = on_progress is not None
        self._on_progress = on_progress or (lambda progress: None)
        self._partial: PartialScan | None = None
        self._finished: dict[str, Unit] = {}
        self.spectra: dict[str, PackedSpectrum] = {}
        """Singular values of finished units, where no file takes them."""
        self._work = {job.unit.name: job.work for job in jobs}
        self._total_work = sum(self._work.values())
        self._done_work = 0.0
        if checkpoint.remote is not None:
            checkpoint.remote.on_fetch = lambda name: self.say_all([f"fetching {name}"])

    @property
    def units(self) -> tuple[Unit, ...]:
        """The finished units, in checkpoint order."""
        found = (self._finished.get(job.unit.name) for job in self._jobs)
        return tuple(unit for unit in found if unit is not None)

    def start(self, partial: PartialScan | None, header: ScanHeader, *, fresh: bool) -> None:
        """Take over what an interrupted scan left, or begin the file."""
        self._partial = partial
        if partial is None:
            return
        if not fresh and not partial.is_empty:
            self._finished = {unit.name: unit for unit in self._take_over(partial)}
            self._done_work = sum(self._work[name] for name in self._finished)
        if not self._finished:
            partial.begin(header)

    def measure(
        self, config: ScanConfig, compute: ComputeSpectra, cache: SpectrumCache | None, feed: Feed | None = None
    ) -> None:
        """Make the units that are missing.

        A batch that was interrupted is computed again as a whole, so that every matrix meets the same neighbours, and
        gets the same bits, as in a scan that was never interrupted.
        """
        window, budget = (feed.window_bytes, feed.budget_bytes) if feed else (WINDOW_BYTES, BUDGET_BYTES)
        batches = [batch for batch in self._list_batches(window) if not self.has_all(batch)]
        num_known = 0
        by_rows = config.device == "cpu"
        with read_ahead(
            self._checkpoint, batches, cache=cache, budget_bytes=budget, by_rows=by_rows, feed=feed
        ) as loaded_batches:
            for batch in loaded_batches:
                finished = measure_batch(batch, config, compute)
                num_known += sum(loaded.known is not None for loaded in batch)
                if cache is not None:
                    cache.remember(collect_findings(batch, finished))
                    self.say_all(cache.take_warnings())
                del batch
                self.add(finished)
        self._say_known(num_known)

    def measure_on_ray(self, address: str, config: ScanConfig, *, num_threads: int, use_cache: bool) -> None:
        """Make the units that are missing on a Ray cluster; they are added as they are finished, in any order."""
        request = make_request(
            self._checkpoint, config, window_bytes=WINDOW_BYTES, num_threads=num_threads, use_cache=use_cache
        )
        tasks = list_tasks(self._list_batches(WINDOW_BYTES), self.has_all)
        hosts = HostNotes(request)
        num_known = 0
        # Closed at once when whoever watches ends the scan: tasks that still wait must not run for nobody.
        with closing(iter_outcomes(address, request, tasks)) as outcomes:
            for outcome in outcomes:
                self.say_all([*hosts.note(outcome), *outcome.messages])
                num_known += outcome.num_known
                self.add(outcome.finished)
        self._say_known(num_known)

    def _list_batches(self, window_bytes: int) -> tuple[Batch, ...]:
        return list_batches(list_loads(self._jobs), window_bytes)

    def _say_known(self, num_known: int) -> None:
        if num_known:
            self.say_all([f"{num_known} of {len(self._jobs)} units were known from the cache of earlier scans"])

    def has_all(self, batch: Batch) -> bool:
        """Whether every unit of a batch is finished."""
        return all(job.unit.name in self._finished for load in batch for job in load.jobs)

    def add(self, finished: Iterable[FinishedUnit]) -> None:
        """Take those of some units that were not finished yet."""
        for made in finished:
            if made.unit.name not in self._finished:
                self._add(made.unit, made.spectrum)

    def say_all(self, messages: Iterable[str]) -> None:
        """Tell whoever watches."""
        for message in messages:
            self._report(message=message)

    def warn(self, message: str | None) -> None:
        """Tell whoever watches, or else whoever called, that something is done otherwise than asked for."""
        if message is None:
            return
        if self._is_watched:
            self.say_all([message])
        else:
            warnings.warn(message, stacklevel=3)

    def _take_over(self, partial: PartialScan) -> Sequence[Unit]:
        kept = partial.resume([job.unit.name for job in self._jobs])
        if kept is None:
            self.say_all([f"{partial.output.name}.partial is of another scan or model; starting afresh"])
            return ()
        if partial.num_lost:
            self.say_all([f"the singular values of {partial.num_lost} finished units are lost; measuring them again"])
        if self._checkpoint.remote is None and (changed := find_changed_tensor(self._checkpoint, kept)):
            self.say_all([f"{changed} has changed since the scan was interrupted; starting afresh"])
            return ()
        if kept:
            self.say_all([f"resuming: {len(kept)} of {len(self._jobs)} units were finished before"])
        return kept

    def _add(self, unit: Unit, spectrum: PackedSpectrum | None) -> None:
        if self._partial is not None:
            self._partial.append(unit, spectrum)
        elif spectrum is not None:
            self.spectra[unit.name] = spectrum
        self._done_work += self._work[unit.name]
        self._finished[unit.name] = unit
        self._report(detail=unit.name)

    def _report(self, **what: Any) -> None:
        self._on_progress(
            ScanProgress(
                done=len(self._finished),
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
