"""Looking up the companions of a tensor of codes, with errors that name what is missing or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.config import get_quantisation
from oblong.checkpoints.packed.packing import Array, Layout, Packing, ReadChunks, read_array
from oblong.errors import CorruptCheckpointError

# A state or a shape is some hundred bytes; a file that declares more is no quantiser's.
MAX_STATE_BYTES: Final = 1 << 16

# Stored beside the codes without being needed to decode them, by what follows the module's name.
_BYSTANDERS: Final = (
    *("weight_format", "weight_shape", "input_scale", "input_zero_point", "output_scale", "input_global_scale"),
    *("g_idx", "bias_scale", "k_scale", "v_scale"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Every stored tensor by name, and the configuration."""

    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    read_chunks: ReadChunks

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """`quantization_config`, empty when there is none."""
        return get_quantisation(self.config)

    @property
    def method(self) -> str | None:
        """The quantiser that the configuration names."""
        method = self.quantisation.get("quant_method")
        return method if isinstance(method, str) else None

    def find(self, name: str) -> TensorInfo | None:
        """A stored tensor, or None."""
        return self.tensors.get(name)

    def require(self, codes: TensorInfo, name: str) -> TensorInfo:
        """A companion without which the codes mean nothing.

        Raises:
            CorruptCheckpointError: it is not in the checkpoint.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise fault(codes, f"its companion {name} is missing")
        return tensor

    def read_small(self, tensor: TensorInfo) -> Array:
        """The values of a companion that decides the layout.

        Raises:
            CorruptCheckpointError: larger than such a thing can be, or its file ends early.
        """
        if tensor.num_bytes > MAX_STATE_BYTES:
            raise fault(tensor, f"it has {tensor.num_bytes} bytes, too many for what it should be")
        return read_array(tensor, self.read_chunks)

    def list_bystanders(self, codes: TensorInfo) -> Sequence[str]:
        """Names of tensors that belong to the same quantised weight but are not needed to decode it."""
        module = codes.name.rpartition(".")[0]
        return [name for suffix in _BYSTANDERS if (name := f"{module}.{suffix}") in self.tensors and name != codes.name]


def fault(tensor: TensorInfo, reason: str) -> CorruptCheckpointError:
    """An error that names the stored tensor and its file."""
    return CorruptCheckpointError(tensor.file, f"tensor {tensor.stored_name}: {reason}")


def require_shape(codes: TensorInfo, companion: TensorInfo, *shapes: tuple[int, ...]) -> None:
    """Check a companion against the shapes that it may have.

    Raises:
        CorruptCheckpointError: it has none of them.
    """
    if companion.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        reason = f"its shape is {list(companion.shape)}, but {codes.stored_name} {list(codes.shape)} needs {wanted}"
        raise fault(companion, reason)


def require_dtype(companion: TensorInfo, *dtypes: str) -> None:
    """Check the storage dtype of a tensor.

    Raises:
        CorruptCheckpointError: it has none of them.
    """
    if companion.dtype not in dtypes:
        raise fault(companion, f"it is {companion.dtype}, which should be {' or '.join(dtypes)}")


def make_logical(
    codes: TensorInfo, name: str, shape: tuple[int, ...], layout: Layout, companions: Mapping[str, TensorInfo]
) -> TensorInfo:
    """The logical tensor that takes the place of its codes."""
    packing = Packing(codes=codes, companions=dict(companions), layout=layout)
    return replace(codes, name=name, dtype=layout.dtype, shape=shape, note=layout.note, packing=packing)
