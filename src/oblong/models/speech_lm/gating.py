"""Audio-gated adapters: LoRA that speaks only where there is audio, so that text behaves bit for bit as before.

As in Granite-Speech. Its `generate` switches PEFT's adapters by whether audio came with the prompt; here every forward
pass does, so that a measurement of text between two training steps is gated too. While a transcription is being
decoded, the later steps carry no audio of their own: the cache remembers that it holds some.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from oblong.errors import SpeechInputError

HOLDS_AUDIO: Final = "holds_audio"


def decide_gate(input_ids: torch.Tensor | None, cache: Any, audio_token_id: int, *, has_audio: bool) -> bool:
    """Whether the adapters speak in this forward pass; a cache that gets audio is marked.

    Args:
        input_ids: (B, L), or None.
        cache: `past_key_values`, or None.
        audio_token_id: the placeholder.
        has_audio: whether audio comes with this pass.

    Raises:
        SpeechInputError: some rows have audio and some have none; one switch cannot serve both.
    """
    if not has_audio:
        return bool(getattr(cache, HOLDS_AUDIO, False))
    if input_ids is not None and not bool((input_ids == audio_token_id).any(-1).all()):
        raise SpeechInputError("with audio-gated adapters a batch has audio in every row or in none: separate the rows")
    if cache is not None:
        setattr(cache, HOLDS_AUDIO, True)
    return True


def set_adapters_enabled(module: nn.Module, *, enabled: bool) -> None:
    """Switch every PEFT layer inside a module, found by what it has, so that PEFT need not be installed.

    PEFT's own `enable_adapters(False)` also freezes the adapter, which would stop its training for good.
    """
    for layer in module.modules():
        if hasattr(layer, "_disable_adapters"):
            layer._disable_adapters = not enabled  # type: ignore[assignment]
