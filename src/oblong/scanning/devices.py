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
        raise SelectionError(f"--threads {num_threads}: at least 1 is needed; leave the option out to use all cores")
    threads = num_threads or count_cores()
    if device == "cpu":
        return lambda matrices: compute_spectra(matrices, full=full, num_threads=threads)
    check_accelerator(device)
    from oblong.spectra.accelerator import compute_spectra_on

    return lambda matrices: compute_spectra_on(matrices, device=device, full=full)


def resolve_device(device: str) -> tuple[str, str | None]:
    """The device to compute on, and what to tell whoever asked for one that cannot: Apple's falls back to the CPU."""
    if device.partition(":")[0] != "mps":
        return device, None
    return "cpu", f"--device {device} has no float64, which condition numbers need; computing on the CPU instead"


def check_accelerator(device: str) -> None:
    """Make sure that an accelerator exists; imports torch.

    Raises:
        SelectionError: unknown, or not on this machine.
    """
    kind, _, index = device.partition(":")
    if kind not in DEVICES or not (index or "0").isdecimal():
        raise SelectionError(f"--device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    import torch

    if int(index or 0) >= torch.cuda.device_count():
        raise SelectionError(f"--device {device}: this machine has none that torch can use; choose --device cpu")


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
