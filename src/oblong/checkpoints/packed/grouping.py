"""Find the tensors of a safetensors checkpoint that belong together, and check that they fit, from their headers.

Each quantiser has a finder. It looks at one stored tensor and answers with the logical tensor that it holds the codes
of, or None. Only bitsandbytes' state and compressed-tensors' shapes, a few bytes each, are read before they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from oblong.checkpoints.base import TensorInfo
from oblong.checkpoints.packed.find_bitsandbytes import find_bnb4, find_bnb_int8
from oblong.checkpoints.packed.find_compressed import find_compressed
from oblong.checkpoints.packed.find_groups import find_awq, find_gptq
from oblong.checkpoints.packed.find_mxfp4 import find_mxfp4
from oblong.checkpoints.packed.lookup import Lookup
from oblong.checkpoints.packed.packing import ReadChunks

Finder: TypeAlias = Callable[[TensorInfo, Lookup], TensorInfo | None]

FINDERS: Final[Sequence[Finder]] = (find_bnb4, find_bnb_int8, find_gptq, find_awq, find_mxfp4, find_compressed)


def group_packed(
    tensors: Sequence[TensorInfo], config: Mapping[str, Any], read_chunks: ReadChunks
) -> tuple[TensorInfo, ...]:
    """Put a logical tensor in the place of each tensor of codes, and mark the companions.

    Args:
        tensors: every stored tensor, in checkpoint order; the result has as many, in the same order.
        config: the model's configuration.
        read_chunks: yields the stored bytes of a tensor.

    Raises:
        CorruptCheckpointError: a companion that is missing or does not fit; the tensor is named.
    """
    lookup = Lookup(tensors={tensor.name: tensor for tensor in tensors}, config=config, read_chunks=read_chunks)
    logical: dict[str, TensorInfo] = {}
    owners: dict[str, str] = {}
    for tensor in tensors:
        found = next(filter(None, (find(tensor, lookup) for find in FINDERS)), None)
        if found is None or found.packing is None:
            continue
        logical[tensor.name] = found
        owners |= {companion.name: found.name for companion in found.packing.companions.values()}
        owners |= dict.fromkeys(lookup.list_bystanders(tensor), found.name)
    merged = (logical.get(t.name) or replace(t, companion_of=owners.get(t.name)) for t in tensors)
    return tuple(merged)
