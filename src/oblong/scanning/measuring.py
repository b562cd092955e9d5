"""From loaded matrices to finished units: equal shapes together, a bad number becomes a status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from oblong.records import Measures, PackedSpectrum, ScanConfig, Status
from oblong.scanning.devices import ComputeSpectra
from oblong.scanning.finding import LASTING, Finding, FinishedUnit
from oblong.scanning.streaming import LoadedBatch, LoadedJob
from oblong.spectra import Spectrum, compute_measures, compute_noise_floor


def measure_batch(batch: LoadedBatch, config: ScanConfig, compute_spectra: ComputeSpectra) -> list[FinishedUnit]:
    """Finish the units of one batch, in its order.

    `seconds` of a unit is its even share of the time of all matrices of its shape, which are computed together.
    """
    finished: dict[int, FinishedUnit] = {}
    for positions in _group_by_shape(batch):
        start = time.perf_counter()
        spectra = compute_spectra([_require_matrix(batch[position]) for position in positions])
        units = [finish(batch[p], spectrum, config) for p, spectrum in zip(positions, spectra, strict=True)]
        seconds = round((time.perf_counter() - start) / len(positions), 6)
        finished |= {p: _set_seconds(unit, seconds) for p, unit in zip(positions, units, strict=True)}
    return [finished.get(position) or _finish_uncomputed(loaded) for position, loaded in enumerate(batch)]


def _set_seconds(finished: FinishedUnit, seconds: float) -> FinishedUnit:
    return replace(finished, unit=finished.unit.model_copy(update={"seconds": seconds}))


def collect_findings(batch: Sequence[LoadedJob], finished: Sequence[FinishedUnit]) -> dict[str, Finding]:
    """What the cache did not know before a batch was measured, by key."""
    return {
        loaded.key: Finding(status=made.unit.status, measures=made.unit.measures, spectrum=made.spectrum)
        for loaded, made in zip(batch, finished, strict=True)
        if loaded.key is not None and loaded.known is None and made.unit.status in LASTING
    }


def _group_by_shape(batch: LoadedBatch) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for position, loaded in enumerate(batch):
        if loaded.job.needs_spectrum and loaded.known is None:
            groups.setdefault(loaded.job.matrix.matrix_shape, []).append(position)
    return list(groups.values())


def _require_matrix(loaded: LoadedJob) -> Any:
    matrix = loaded.values if loaded.staged is None else loaded.staged
    assert matrix is not None
    return matrix


def finish(loaded: LoadedJob, spectrum: Spectrum, config: ScanConfig) -> FinishedUnit:
    """The unit of a matrix whose spectrum was computed, or could not be."""
    status = Status(spectrum.outcome.value)
    if status not in (Status.OK, Status.RANK_DEFICIENT):
        return _close(loaded, status)
    rounding = loaded.rounding_rms
    if loaded.staged is not None and rounding is None:
        from oblong.spectra.accelerator import estimate_rounding_on

        rounding = estimate_rounding_on(loaded.staged, loaded.job.unit.dtype)
    floor = compute_noise_floor(_require_matrix(loaded), loaded.job.unit.dtype, rounding_rms=rounding)
    measures = compute_measures(
        spectrum,
        input_variance=config.input_variance,
        noise_variance=config.noise_variance,
        noise_floor=floor,
    )
    values = spectrum.singular_values if config.spectrum == "full" else None
    packed = None if values is None else PackedSpectrum.pack(values)
    return _close(loaded, status, Measures.model_validate(measures, from_attributes=True), packed)


def _finish_uncomputed(loaded: LoadedJob) -> FinishedUnit:
    if loaded.known is None:
        return finish_unmeasured(loaded)
    return _close(loaded, loaded.known.status, loaded.known.measures, loaded.known.spectrum)


def finish_unmeasured(loaded: LoadedJob) -> FinishedUnit:
    """The unit of a vector, or of a tensor whose header decided; a vector's values may still be bad."""
    values = loaded.values
    if not isinstance(values, np.ndarray) or values.size == 0:
        return _close(loaded, loaded.job.unit.status)
    if not np.isfinite(values).all():
        return _close(loaded, Status.NON_FINITE)
    return _close(loaded, loaded.job.unit.status if values.any() else Status.ZERO)


def _close(
    loaded: LoadedJob, status: Status, measures: Measures | None = None, spectrum: PackedSpectrum | None = None
) -> FinishedUnit:
    """Put what was found into the unit. A unit without measures is not eligible, and says why."""
    unit = loaded.job.unit
    found: dict[str, Any] = {"digest": loaded.digest, "status": status, "measures": measures}
    if measures is None:
        kept_reason = unit.reason if status is unit.status else None
        found |= {"eligible": False, "reason": kept_reason or status.explanation}
        found["matrix_shape"] = loaded.job.matrix.matrix_shape if loaded.job.needs_spectrum else None
    if spectrum is not None:
        found["spectrum_digest"] = spectrum.digest
    return FinishedUnit(unit=unit.model_copy(update=found), spectrum=spectrum)
