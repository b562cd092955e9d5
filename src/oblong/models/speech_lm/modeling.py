"""The model with its head: text and audio in, logits and transcriptions out.

As the audio language models of transformers are: a base model, `lm_head`, and `generate`, around any Whisper encoder
and any causal language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep

from oblong.models.speech_lm.base_model import (
    AudioFeatures,
    SpeechLMModel,
    SpeechLMPreTrainedModel,
    find_embedding_name,
)
from oblong.models.speech_lm.configuration import SpeechLMConfig
from oblong.models.speech_lm.encoded_audio import EncodedAudio
from oblong.models.speech_lm.gating import decide_gate, set_adapters_enabled
from oblong.models.speech_lm.generation import SpeechGenerationMixin
from oblong.models.speech_lm.head import finish_logits

IGNORED: Final = -100  # torch's own label for positions without one
# Embedding tables are large; these many rows say enough about their scale.
MAX_ROWS_MEASURED: Final = 4096


@dataclass
class SpeechLMOutput(CausalLMOutputWithPast):
    """Logits and loss, and `audio_hidden_states`: the flat audio tokens that the language model read, or None."""

    audio_hidden_states: torch.Tensor | None = None


class SpeechLMForConditionalGeneration(  # type: ignore[no-untyped-call]  # transformers' own hook
    SpeechLMPreTrainedModel, SpeechGenerationMixin
):
    """A causal language model that hears; see the module's text."""

    model: SpeechLMModel
    lm_head: nn.Linear

    def __init__(self, config: SpeechLMConfig) -> None:
        super().__init__(config)
        self.model = SpeechLMModel(config)
        width, vocab_size = config.text_config.hidden_size, config.text_config.vocab_size
        self.lm_head = nn.Linear(width, vocab_size, bias=config.lm_head_bias)
        # Where the table is called depends on the family of the language model.
        self._tied_weights_keys = {"lm_head.weight": f"model.{find_embedding_name(self.model)}.weight"}
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The language model's table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = value

    def encode_audio(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None
    ) -> EncodedAudio:
        """See `SpeechLMModel.encode_audio`."""
        return self.model.encode_audio(input_features, input_features_mask)

    def get_audio_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `SpeechLMModel.get_audio_features`."""
        return self.model.get_audio_features(*args, **kwargs)

    def freeze_towers(self) -> None:
        """Freeze encoder, language model and head; only the adaptor trains."""
        for module in (self.model.audio_tower, self.model.language_model, self.lm_head):
            module.requires_grad_(False)
        self.model.multi_modal_projector.requires_grad_(True)
        self.train(self.training)

    def as_causal_lm(self) -> PreTrainedModel:
        """The language model with its head as the family's own class, made of the very same parameters.

        What is done to it is done to this model: apply a Plan of the bare language model to it, measure text with it.
        """
        with torch.device("meta"):
            view: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                self.config.text_config
            )
        setattr(view, view.base_model_prefix, self.model.language_model)
        view.set_output_embeddings(self.lm_head)
        view.generation_config = self.generation_config
        whole: PreTrainedModel = view.train(self.model.language_model.training)
        return whole

    def match_adaptor_scale(self) -> float:
        """Bring the adaptor's tokens to the scale of the language model's embeddings.

        Returns:
            That scale: the median over rows of the root mean square. The median, because tables have unused rows.
        """
        num_rows: int = self.config.text_config.vocab_size
        rows = torch.linspace(0, num_rows - 1, min(num_rows, MAX_ROWS_MEASURED), device=self.lm_head.weight.device)
        with torch.no_grad():
            embeddings: torch.Tensor = self.get_input_embeddings()(rows.long())
        scale = float(embeddings.float().pow(2).mean(-1).sqrt().median())
        self.model.multi_modal_projector.set_output_scale(scale)
        return scale

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        audio_features: AudioFeatures | None = None,
        audio_features_mask: torch.Tensor | None = None,
        labelled_logits_only: bool = False,
        **kwargs: Any,
    ) -> SpeechLMOutput:
        """Predict the next tokens of prompts with or without audio.

        Args:
            input_ids: (B, L), with one placeholder for each audio token.
            input_features: log-mel spectrograms of whole windows (N, mel bins, 2 x positions).
            input_features_mask: (N, 2 x positions), 1 for valid frames.
            attention_mask: (B, L), 1 for tokens, 0 for padding, on either side.
            position_ids: (B, L).
            past_key_values: transformers' cache.
            inputs_embeds: (B, L, H) instead of `input_ids`, without audio.
            labels: (B, L), -100 where nothing is to be learned.
            use_cache: whether to return a cache; not by default where there are labels.
            logits_to_keep: last positions to compute logits for, 0 for all.
            audio_features: cached encoder states instead of `input_features`: (T_i, D) each, or (N, T, D).
            audio_features_mask: (N, T), the valid frames of a padded tensor.
            labelled_logits_only: with labels, compute only the logits that the loss looks at, (number of labels,
                vocabulary): a prompt with audio is many times longer than its transcript.
            kwargs: to the language model, and to the loss (`num_items_in_batch`).

        Raises:
            SpeechInputError: placeholders and audio do not agree.
        """
        has_audio = input_features is not None or audio_features is not None
        if self.config.audio_gated_adapters:
            gate = decide_gate(input_ids, past_key_values, self.config.audio_token_id, has_audio=has_audio)
            set_adapters_enabled(self.model.language_model, enabled=gate)
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=labels is None if use_cache is None else use_cache,
            audio_features=audio_features,
            audio_features_mask=audio_features_mask,
            **kwargs,
        )
        shifted = None if labels is None else shift_labels(labels)
        if shifted is not None and labelled_logits_only:
            logits_to_keep, shifted = shifted != IGNORED, shifted[shifted != IGNORED]
        hidden = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = finish_logits(self.lm_head(hidden), self.config.text_config)
        loss = None
        if shifted is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits, None, vocab_size=vocab_size, shift_labels=shifted, **kwargs)
        return SpeechLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=outputs.audio_hidden_states,
        )


def shift_labels(labels: torch.Tensor) -> torch.Tensor:
    """What each position is to predict: the label of the next one, none at the end; (B, L)."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
