"""Peak memory of this process."""

from __future__ import annotations

import sys

import psutil
import torch


def measure_peak_memory() -> int:
    """Peak resident memory of this process since it started; on a GPU, the peak of torch's allocator. Bytes."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
