"""Whether what a method needs fits in memory, before anything is computed."""

from __future__ import annotations

from typing import Any, Final

import psutil
import torch

from oblong.errors import MethodError
from oblong.methods.protocol import Batch, Sizes, Training

# Per token, layer and hidden unit in float32: Korthikanti et al. 2022, equation 1, twice its 16-bit figure, without the
# attention scores that fused kernels do not keep.
ACTIVATION_BYTES: Final = 68


def forecast_sizes(training: Training, item: Batch | None) -> Sizes:
    """The sizes that forecasts depend on, for micro-batches like the given one."""
    config: Any = getattr(training.model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    num_tokens = 0 if item is None else int(item["input_ids"].numel()) * training.batch_size
    num_layers = int(getattr(text_config, "num_hidden_layers", 0))
    return Sizes(
        num_trained=sum(parameter.numel() for parameter in training.trained.values()),
        num_tokens=num_tokens,
        batch_size=training.batch_size,
        vocabulary=int(getattr(text_config, "vocab_size", 0)),
        num_anchor_tasks=1 if training.anchor is None else training.anchor.num_tasks,
        largest_matrix=max((parameter.numel() for parameter in training.trained.values()), default=0),
        activation_bytes=num_tokens * int(getattr(text_config, "hidden_size", 0)) * num_layers * ACTIVATION_BYTES,
    )


def refuse_if_too_large(num_bytes: int, device: torch.device) -> None:
    """Stop before a method allocates more than there is.

    Raises:
        MethodError: the forecast is more than what is free.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if num_bytes > free:
        raise MethodError(
            f"this method needs {num_bytes / 1e9:.1f} GB beside the training itself, and {free / 1e9:.1f} GB are free "
            f"on {device}: give the Plan a smaller budget, a smaller batch or a shorter sequence_length, or take "
            "another method"
        )
