"""Where the spectra are computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oblong.errors import SelectionError
from oblong.spectra import Spectrum, compute_spectra

DEVICES: Final = ("cpu", "cuda", "mps")

ComputeSpectra = Callable[[Sequence[NDArray[np.floating[Any]]]], Sequence[Spectrum]]


def choose_backend(device: str, *, full: bool, num_threads: int | None) -> ComputeSpectra:
    """The function that measures a list of matrices of equal shape on a device.

    Raises:
        SelectionError: an unknown device, one that is not there, or fewer than one thread.
    """
    if num_threads is not None and num_threads < 1:
        raise SelectionError(f"--threads {num_threads}: at least 1 is needed")
    threads = num_threads or count_cores()
    if device == "cpu":
        return lambda matrices: compute_spectra(matrices, full=full, num_threads=threads)
    check_accelerator(device)
    from oblong.spectra.accelerator import compute_spectra_on

    return lambda matrices: compute_spectra_on(matrices, device=device, full=full)


def check_accelerator(device: str) -> None:
    """Make sure that an accelerator exists and can compute in float64; imports torch.

    Raises:
        SelectionError: unknown, without float64, or not on this machine.
    """
    kind, _, index = device.partition(":")
    if kind not in DEVICES or not (index or "0").isdecimal():
        raise SelectionError(f"--device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if kind == "mps":
        raise SelectionError("--device mps: it has no float64, which condition numbers need; choose --device cpu")
    import torch

    if int(index or 0) >= torch.cuda.device_count():
        raise SelectionError(f"--device {device}: this machine has none that torch can use; choose --device cpu")


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
