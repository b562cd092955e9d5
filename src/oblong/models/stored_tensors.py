"""The tensors of a model as they lie on the disk, as torch tensors: what training is checked against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from oblong.checkpoints.base import CHUNK_BYTES, Checkpoint, TensorInfo
from oblong.checkpoints.config import get_quantisation
from oblong.checkpoints.delta import DTYPE_NAMES
from oblong.checkpoints.opening import open_checkpoint
from oblong.errors import CorruptCheckpointError, UnsupportedFormatError

TORCH_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class StoredTensors:
    """Random access to the tensors of a checkpoint; none is read before it is asked for.

    Attributes:
        checkpoint: the opened checkpoint.
        names: Hugging Face names of its tensors, sorted.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._infos = {tensor.name: tensor for tensor in checkpoint.tensors}
        self.names = tuple(sorted(self._infos))

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU: its stored bits in its storage dtype, or float32 values where it is quantised.

        Raises:
            CorruptCheckpointError: its file ends early, cannot be read, or holds it in a format that nobody knows.
        """
        tensor = self._infos[name]
        if tensor.dtype in TORCH_DTYPES:
            return self._read_bits(tensor)
        values = self.checkpoint.read(tensor)
        if values is None:
            raise CorruptCheckpointError(tensor.file, f"tensor {name} is stored as {tensor.dtype}, which is unknown")
        return torch.from_numpy(values).to(torch.float32)

    def get_dtype(self, name: str) -> torch.dtype:
        """The dtype in which `read` gives a tensor."""
        return TORCH_DTYPES.get(self._infos[name].dtype, torch.float32)

    def refuse_quantised(self) -> None:
        """Make sure that the weights lie here as numbers that can be trained, not as codes with scales.

        Raises:
            UnsupportedFormatError: some are codes; the message says which model to use instead.
        """
        checkpoint = self.checkpoint
        for tensor in checkpoint.tensors:
            if tensor.packing is not None or checkpoint.find_scale(tensor) is not None:
                method = get_quantisation(checkpoint.config).get("quant_method")
                label = f"{tensor.dtype}, by {method}" if isinstance(method, str) else tensor.dtype
                reason = f"its {tensor.name} is quantised ({label}) and cannot be trained: tune the original model that"
                advice = "this one was made from (its card names it as base_model); the tensors have the same names"
                raise UnsupportedFormatError(checkpoint.path, f"{reason} {advice}")

    def digest(self, name: str) -> str:
        """SHA-256 of one tensor's stored bytes, the digest that a Scan and a Plan name."""
        return self.checkpoint.digest(self._infos[name])

    def iterate(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in name order, one in memory at a time."""
        for name in self.names:
            yield name, self.read(name)

    def _read_bits(self, tensor: TensorInfo) -> torch.Tensor:
        buffer = torch.empty(tensor.num_bytes, dtype=torch.uint8)
        start = 0
        for chunk in self.checkpoint.source.iter_chunks(tensor, CHUNK_BYTES):
            buffer[start : start + chunk.size] = torch.from_numpy(chunk)
            start += chunk.size
        return buffer.view(TORCH_DTYPES[tensor.dtype]).reshape(tensor.shape)


class ChangedTensors(StoredTensors):
    """The tensors of a checkpoint with other values for some of them; digests stay the checkpoint's.

    Args:
        stored: the checkpoint's.
        changes: values by name, of the same shapes and storage dtypes.
    """

    def __init__(self, stored: StoredTensors, changes: Mapping[str, torch.Tensor]) -> None:
        super().__init__(stored.checkpoint)
        self._changes = changes

    def read(self, name: str) -> torch.Tensor:
        """The new value of a changed tensor, a copy; see `StoredTensors.read` for the others."""
        return self._changes[name].clone() if name in self._changes else super().read(name)


def open_stored_tensors(path: Path) -> StoredTensors:
    """Open a located model.

    Raises:
        UnsupportedFormatError: no checkpoint of a known format there.
        CorruptCheckpointError: a header or index that cannot be trusted.
    """
    return StoredTensors(open_checkpoint(path))
