"""From the reader's memory to the device's, while the device computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oblong.spectra import device_stack

if TYPE_CHECKING:
    import torch


class Stager:
    """Copies matrices to a device on a stream of its own; imports torch.

    Only the stored bytes cross the bus, from pinned memory: float64 is made on the device. The copy is complete when
    the call returns; it keeps the reader's thread waiting, not the device.

    Args:
        device: cuda, cuda:1, or cpu (for tests), where nothing needs to be copied.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._stream = _make_stream(self._device) if self._device.type == "cuda" else None

    def __call__(self, values: NDArray[Any]) -> torch.Tensor:
        """A matrix on the device; on the host where the device has no room for it yet.

        Args:
            values: shape (m, n), float16, float32 or float64, or uint16 for the bits of bfloat16.
        """
        import torch

        tensor = to_tensor(values)
        if self._stream is None:
            return tensor
        try:
            with torch.cuda.stream(self._stream):
                staged = tensor.pin_memory().to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return tensor
        self._stream.synchronize()
        return staged


def _make_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def to_tensor(values: NDArray[Any]) -> torch.Tensor:
    """The same numbers as a tensor on the host; uint16 is read as the bits of bfloat16."""
    import torch

    if values.dtype == np.uint16:
        return device_stack.to_tensor(values.view(np.int16)).view(torch.bfloat16)
    return device_stack.to_tensor(values)
