"""One forward pass of training, with what all prompts have in common computed once.

Before the audio every prompt is the same: the beginning of the text and the system's turn. Keys and values of these
positions do not depend on what follows. They are computed with a batch of one and repeated for the rows; gradients flow
through the repetition where the language model trains, and where it is frozen they are computed once for all. What that
saves: benchmarks/speech_prefix.py.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from transformers import DynamicCache

from oblong.errors import OperationalError
from oblong.models.speech_lm import SpeechLMForConditionalGeneration
from oblong.models.speech_lm.gating import set_adapters_enabled
from oblong.models.speech_lm.modeling import SpeechLMOutput
from oblong.speech.training.batches import SpeechBatch

# Relative, between the two ways; bf16 has 8 bits, and sums over a hundred positions in another order.
TOLERANCES: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

Prefix = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class SpeechForward(nn.Module):
    """A speech LLM as training calls it.

    Args:
        model: trained in place.
        dtype: of the arithmetic; bfloat16 computes under autocast, so that float32 masters fit in.
        share_prefix: see the module's text.
    """

    def __init__(
        self, model: SpeechLMForConditionalGeneration, *, dtype: torch.dtype, share_prefix: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.share_prefix = share_prefix
        self._dtype = dtype
        self._frozen_prefix: tuple[tuple[int, ...], Prefix] | None = None

    def forward(self, batch: SpeechBatch, *, num_labels: int | None = None) -> SpeechLMOutput:
        """Loss and logits at the labelled positions.

        Args:
            batch: on the model's device.
            num_labels: what the sum of losses is divided by; default: the batch's own.
        """
        options: dict[str, Any] = {
            "audio_features": list(batch.frames),
            "labelled_logits_only": True,
            "num_items_in_batch": num_labels or batch.num_labels,
        }
        with torch.autocast(batch.labels.device.type, self._dtype, enabled=self._dtype != torch.float32):
            length = find_prefix_length(batch, self.model.config.audio_token_id) if self.share_prefix else 0
            if length == 0:
                output: SpeechLMOutput = self.model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                    use_cache=False,
                    **options,
                )
                return output
            shared: SpeechLMOutput = self.model(
                input_ids=batch.input_ids[:, length:],
                attention_mask=batch.attention_mask,
                labels=batch.labels[:, length:],
                past_key_values=self._repeat(self._get_prefix(batch.input_ids[:1, :length]), len(batch.labels)),
                use_cache=True,
                **options,
            )
            return shared

    @torch.no_grad()
    def check_sharing(self, batch: SpeechBatch) -> None:
        """Make sure that sharing the prefix changes nothing but the rounding.

        Raises:
            OperationalError: the loss differs by more.
        """
        if not self.share_prefix:
            return
        shared = float(self(batch).loss)
        self.share_prefix = False
        plain = float(self(batch).loss)
        self.share_prefix = True
        if abs(shared - plain) > TOLERANCES[self._dtype] * max(abs(plain), 1.0):
            raise OperationalError(
                f"with a shared prompt prefix the loss is {shared:.4f}, without {plain:.4f}: this language model keeps "
                "its past in another way; set share_prefix: false"
            )

    def _get_prefix(self, ids: torch.Tensor) -> Prefix:
        """Keys and values of every layer, each (1, heads, K, head width)."""
        trains = any(parameter.requires_grad for parameter in self.model.model.language_model.parameters())
        if trains and torch.is_grad_enabled():
            return self._compute_prefix(ids)
        key = tuple(ids[0].tolist())
        if trains or self._frozen_prefix is None or self._frozen_prefix[0] != key:
            with torch.no_grad():
                prefix = self._compute_prefix(ids)
            if trains:
                return prefix
            self._frozen_prefix = key, prefix
        return self._frozen_prefix[1]

    def _compute_prefix(self, ids: torch.Tensor) -> Prefix:
        if self.model.config.audio_gated_adapters:
            # These positions belong to prompts with audio.
            set_adapters_enabled(self.model.model.language_model, enabled=True)
        cache: Any = DynamicCache(config=self.model.config.text_config)
        self.model.model.language_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return tuple((layer.keys, layer.values) for layer in cache.layers)

    def _repeat(self, prefix: Prefix, num_rows: int) -> Any:
        cache: Any = DynamicCache(config=self.model.config.text_config)
        for number, (keys, values) in enumerate(prefix):
            cache.update(keys.expand(num_rows, -1, -1, -1), values.expand(num_rows, -1, -1, -1), number)
        return cache


def find_prefix_length(batch: SpeechBatch, audio_token_id: int) -> int:
    """Columns before the first placeholder of any row; 0 where they are not the same in all rows."""
    is_audio = (batch.input_ids == audio_token_id).any(0)
    length = int(is_audio.int().argmax())
    ids = batch.input_ids[:, :length]
    return length if bool((ids == ids[:1]).all()) and bool(batch.attention_mask[:, :length].all()) else 0
