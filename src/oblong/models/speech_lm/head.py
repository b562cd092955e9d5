"""What families of language models do to the output of their head before they call it logits.

The composite has the base model and the head, and must do the same to be the same. Whether it does is tested on every
language model that is built in (`check_head`), so that a family with a rule of its own is refused and not answered for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from oblong.errors import SpeechModelError

NUM_PROBE_TOKENS: Final = 8


def finish_logits(logits: torch.Tensor, text_config: Any) -> torch.Tensor:
    """Apply the rule that a configuration names: cap c tanh(x / c) (Gemma), x / s (Granite), x s (Cohere), or none.

    Args:
        logits: (..., vocabulary), from the head.
        text_config: the language model's.
    """
    cap: float | None = getattr(text_config, "final_logit_softcapping", None)
    divisor: float | None = getattr(text_config, "logits_scaling", None)
    factor: float | None = getattr(text_config, "logit_scale", None)
    if cap is not None:
        return torch.tanh(logits / cap) * cap
    if divisor is not None:
        return logits / divisor
    return logits if factor is None else logits * factor


@torch.no_grad()
def check_head(model: Any, path: Path) -> None:
    """Make sure that a language model's logits are `finish_logits` of its head of its last hidden states, to the bit.

    Raises:
        SpeechModelError: they are not.
    """
    head: Any = model.get_output_embeddings()
    config = model.config
    if isinstance(head, nn.Linear):
        ids = torch.arange(min(NUM_PROBE_TOKENS, config.get_text_config().vocab_size))[None]
        logits = finish_logits(head(model.base_model(ids).last_hidden_state), config)
        if torch.equal(logits, model(ids).logits):
            return
    raise SpeechModelError(
        f"{path}: a {config.model_type!r} model makes its logits in a way of its own, unknown here: "
        "choose a language model of another family (Llama, Mistral, Qwen, Gemma, Granite)"
    )
