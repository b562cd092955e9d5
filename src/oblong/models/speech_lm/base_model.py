"""Encoder, adaptor and language model as one base model, without a head.

`audio_tower`, `multi_modal_projector` and `language_model` are the names in the contract of transformers' own audio
language models, so that PEFT, Trainer and servers find what they look for. Without audio the token ids go to the
language model untouched: its hidden states are bit for bit those of the language model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from oblong.errors import SpeechInputError
from oblong.models.speech_lm.adaptor import AdaptorAttention, SpeechAdaptor
from oblong.models.speech_lm.configuration import SpeechLMConfig
from oblong.models.speech_lm.encoded_audio import EncodedAudio
from oblong.models.speech_lm.frames import SAMPLING_RATE, count_encoder_frames, count_mask_frames
from oblong.models.speech_lm.whisper_encoder import encode_start

AudioFeatures = torch.Tensor | Sequence[torch.Tensor]
PROJECTOR: Final = "multi_modal_projector"


@dataclass
class SpeechLMModelOutput(BaseModelOutputWithPast):
    """Hidden states of the language model, and `audio_hidden_states`: the flat audio tokens it read, or None."""

    audio_hidden_states: torch.Tensor | None = None


class SpeechLMPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers' own hook
    """What both models tell transformers about themselves."""

    config_class = SpeechLMConfig
    config: SpeechLMConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities: Any = ("audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, AdaptorAttention):
            init.zeros_(module.out_proj.weight)
            init.zeros_(module.out_proj.bias)


class SpeechLMModel(SpeechLMPreTrainedModel):  # type: ignore[no-untyped-call]  # transformers' own hook
    """Encoder, adaptor and language model without its head."""

    def __init__(self, config: SpeechLMConfig) -> None:
        super().__init__(config)
        if config.adaptor_config.keep_float32:
            # On the instance: whether it holds is the configuration's business.
            self._keep_in_fp32_modules_strict = [PROJECTOR]
        factory: Any = AutoModel  # without annotations
        self.audio_tower = factory.from_config(config.audio_config)
        self.multi_modal_projector = SpeechAdaptor(config)
        self.language_model = factory.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The language model's table."""
        table: nn.Module = self.language_model.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's table."""
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a tower without a parameter that trains stays in evaluation mode.

        So no dropout or layer drop disturbs what is frozen. Layers under gradient checkpointing keep the mode, which
        they read as the permission to recompute; the modules inside them do not.
        """
        super().train(mode)
        for tower in (self.audio_tower, self.language_model):
            if mode and not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
                for module in tower.modules():
                    if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                        module.training = True
        return self

    def encode_audio(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None
    ) -> EncodedAudio:
        """Run the encoder and keep the valid frames: what a feature cache stores.

        It hears whole windows, or each recording and the configuration's `trailing_silence`, one at a time then: what
        a recording becomes does not depend on those beside it.

        Args:
            input_features: log-mel spectrograms (N, mel bins, 2 x positions).
            input_features_mask: (N, 2 x positions), 1 for valid frames; None where all are.
        """
        silence = self.config.trailing_silence
        if silence is None or input_features_mask is None:
            states = self.audio_tower(input_features).last_hidden_state
            return EncodedAudio.crop(states, input_features_mask)
        longest: int = self.config.audio_config.max_source_positions
        clips = []
        for spectrogram, mask in zip(input_features, input_features_mask, strict=True):
            length = count_mask_frames(int(mask.sum()))
            heard = min(length + count_encoder_frames(round(silence * SAMPLING_RATE)), longest)
            clips.append(encode_start(self.audio_tower, spectrogram[None], heard)[0, :length])
        return EncodedAudio.gather(clips, None)

    def get_audio_features(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        *,
        audio_features: AudioFeatures | None = None,
        audio_features_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Turn spectrograms, or what `encode_audio` made of them, into audio tokens.

        Args:
            input_features: see `encode_audio`.
            input_features_mask: see `encode_audio`.
            audio_features: cached encoder states instead, (T_i, D) each or (N, T, D).
            audio_features_mask: (N, T) with a padded tensor.
            kwargs: accepted for transformers' sake, and not used.

        Returns:
            `last_hidden_state`: cropped encoder states (N, T, D); `pooler_output`: the valid audio tokens of all
            recordings in order, flat, (number of tokens, language model width).

        Raises:
            SpeechInputError: neither or both kinds of audio, or states of another width than the encoder's.
        """
        del kwargs
        audio = self.collect_audio(input_features, input_features_mask, audio_features, audio_features_mask)
        if audio is None:
            raise SpeechInputError("there is no audio: pass input_features or audio_features")
        tokens, mask = self.multi_modal_projector(audio.frames, audio.mask)
        return BaseModelOutputWithPooling(last_hidden_state=audio.frames, pooler_output=tokens[mask])

    def collect_audio(
        self,
        input_features: torch.Tensor | None,
        input_features_mask: torch.Tensor | None,
        audio_features: AudioFeatures | None,
        audio_features_mask: torch.Tensor | None,
    ) -> EncodedAudio | None:
        """Encoder states, computed or cached; None without audio. See `get_audio_features`."""
        if audio_features is None:
            return None if input_features is None else self.encode_audio(input_features, input_features_mask)
        if input_features is not None:
            raise SpeechInputError("pass input_features or audio_features, not both")
        audio = EncodedAudio.gather(audio_features, audio_features_mask)
        width = self.config.audio_config.hidden_size
        if audio.frames.shape[-1] != width:
            raise SpeechInputError(
                f"audio_features are {audio.frames.shape[-1]} wide and this model's encoder {width}: they were made by "
                "another encoder; make them again with this one"
            )
        return audio

    def embed_inputs(self, input_ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids and put the audio tokens where the placeholders stand.

        Args:
            input_ids: (B, L), with as many placeholders as there are audio tokens.
            tokens: flat audio tokens (number of tokens, H), in the order of the placeholders.

        Returns:
            (B, L, H) in the dtype of the embedding table.

        Raises:
            SpeechInputError: the numbers differ.
        """
        is_audio = input_ids == self.config.audio_token_id
        if (num_places := int(is_audio.sum())) != len(tokens):
            raise SpeechInputError(
                f"the prompts have {num_places} audio placeholders and the audio makes {len(tokens)} tokens: let the "
                "processor write the prompts (placeholders are counted by oblong.models.speech_lm.frames)"
            )
        # The placeholder may lie past the table; any row will do, since none of it stays.
        embeddings: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        places = is_audio.unsqueeze(-1).expand_as(embeddings)
        return embeddings.masked_scatter(places, tokens.to(embeddings.device, embeddings.dtype))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        audio_features: AudioFeatures | None = None,
        audio_features_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SpeechLMModelOutput:
        """Run the language model on text and audio; see `SpeechLMForConditionalGeneration.forward`."""
        tokens: torch.Tensor | None = None
        if input_features is not None or audio_features is not None:
            if input_ids is None:
                raise SpeechInputError("audio needs input_ids with placeholders, not inputs_embeds")
            audio = self.get_audio_features(
                input_features,
                input_features_mask,
                audio_features=audio_features,
                audio_features_mask=audio_features_mask,
            )
            tokens = audio["pooler_output"]
            inputs_embeds, input_ids = self.embed_inputs(input_ids, tokens), None
        elif input_ids is not None:
            self._refuse_unheard(input_ids)
        kwargs.pop("return_dict", None)
        outputs = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return SpeechLMModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=getattr(outputs, "past_key_values", None),
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
            audio_hidden_states=tokens,
        )

    def _refuse_unheard(self, input_ids: torch.Tensor) -> None:
        # One new token at a time is what decoding feeds; looking at it would make a GPU wait at every step.
        if input_ids.shape[-1] > 1 and bool((input_ids == self.config.audio_token_id).any()):
            raise SpeechInputError("the prompt has audio placeholders, but no audio was passed")


def find_embedding_name(model: SpeechLMModel) -> str:
    """The path of the language model's table inside the model."""
    table = model.get_input_embeddings()
    modules: Any = model.named_modules()
    return str(next(name for name, module in modules if module is table))
