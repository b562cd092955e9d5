"""Where the spectra are computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from numpy.typing import NDArray

from oblong.errors import SelectionError
from oblong.spectra import Precision, Spectrum, Workspaces, compute_spectra

PRECISIONS: Final = tuple(Precision)
DEVICES: Final = ("cpu", "cuda", "mps")

# Matrices are numpy arrays, or for an accelerator what its `Feed` has made of them.
ComputeSpectra = Callable[[Sequence[Any]], Sequence[Spectrum]]

# Values of one batch on an accelerator, in bytes of float32: that share of its memory, at most so many. Twice as many
# are read ahead. The largest holds five layers of an 8B model, so that stacks of equal shape are worth their launches.
SHARE_FOR_WINDOW: Final = 1 / 32
MAX_WINDOW_BYTES: Final = 4 << 30
# Hashing takes most of a reader's time, some 1.5 GB/s each.
MAX_READERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """How an accelerator wants its matrices.

    Attributes:
        window_bytes: decoded values of one batch; depends on the model of the device alone, for the sake of resuming.
        num_readers: tensors that are read at the same time.
        stage: brings a matrix near the device; runs in the reader's thread. uint16 stands for the bits of bfloat16.
    """

    window_bytes: int
    num_readers: int
    stage: Callable[[NDArray[Any]], Any]

    @property
    def budget_bytes(self) -> int:
        """Decoded values in flight: one batch is computed while the next one is read."""
        return 2 * self.window_bytes


def choose_backend(
    device: str, *, full: bool, num_threads: int | None, precision: str = Precision.AUTO
) -> ComputeSpectra:
    """The function that measures a list of matrices of equal shape on a device.

    Raises:
        SelectionError: an unknown device or precision, a device that is not there, or fewer than one thread.
    """
    if precision not in PRECISIONS:
        raise SelectionError(f"--precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if num_threads is not None and num_threads < 1:
        raise SelectionError(f"--threads {num_threads}: at least 1 is needed; leave the option out to use all cores")
    threads = num_threads or count_cores()
    if device == "cpu":
        return partial(
            compute_spectra,
            full=full,
            num_threads=threads,
            precision=Precision(precision),
            workspaces=Workspaces(),
        )
    check_accelerator(device)
    from oblong.spectra.accelerator import compute_spectra_on

    return lambda matrices: compute_spectra_on(matrices, device=device, full=full)


def resolve_device(device: str) -> tuple[str, str | None]:
    """The device to compute on, and what to tell whoever asked for one that cannot: Apple's falls back to the CPU."""
    if device.partition(":")[0] != "mps":
        return device, None
    return "cpu", f"--device {device} has no float64, which condition numbers need; computing on the CPU instead"


def choose_feed(device: str) -> Feed | None:
    """How to feed a device that `choose_backend` has accepted; None for the CPU, which reads what is in memory."""
    if device == "cpu":
        return None
    import torch

    from oblong.scanning.staging import Stager

    _, total = torch.cuda.mem_get_info(device)
    window = min(int(total * SHARE_FOR_WINDOW), MAX_WINDOW_BYTES)
    return Feed(window_bytes=window, num_readers=min(MAX_READERS, count_cores()), stage=Stager(device))


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
