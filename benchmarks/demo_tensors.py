"""The matrices that the spectra benchmarks measure: those of every layer, as float32, in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from oblong.checkpoints.locate import locate_model


def read_layer_matrices(model: str) -> dict[str, NDArray[np.float32]]:
    """Two-dimensional tensors of a safetensors checkpoint, embeddings and output layer left out.

    Args:
        model: Anything that `oblong scan` takes, as long as it is safetensors.
    """
    path = locate_model(model)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [Path(path)]
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return {
        name: np.ascontiguousarray(tensor.float().numpy())
        for name, tensor in sorted(tensors.items())
        if tensor.ndim == 2 and min(tensor.shape) > 1 and "embed" not in name and "lm_head" not in name
    }
