"""Decoding: transformers' `generate`, with audio encoded once, and with a prompt of its own for audio that has none."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin

from oblong.errors import SpeechInputError
from oblong.models.speech_lm.configuration import SpeechLMConfig
from oblong.models.speech_lm.encoded_audio import EncodedAudio

# transformers forwards what it does not know at every step; audio belongs to the first one alone.
AUDIO_INPUTS = ("audio_features", "audio_features_mask")


# Half of its methods have no annotations, and the other half ask for a `self` that is the finished model.
_Mixin: Any = GenerationMixin


class SpeechGenerationMixin(_Mixin):  # type: ignore[misc]  # a class all the same
    """`generate` for `SpeechLMForConditionalGeneration`."""

    config: SpeechLMConfig

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Continue prompts with audio, prompts without, or transcribe audio that comes alone.

        Args:
            inputs: token ids, or log-mel spectrograms if it holds floating-point numbers.
            kwargs: `input_ids`, `attention_mask`, `input_features`, `input_features_mask`, `audio_features`,
                `audio_features_mask` as in `forward`, and all that transformers' `generate` takes. With audio and no
                `input_ids` every recording gets the model's own prompt (`config.default_prompt_ids`), and
                `attention_mask` is taken for the spectrograms': so the speech recognition pipeline calls.

        Returns:
            Prompts and continuations as transformers returns them; without `input_ids`, continuations alone.

        Raises:
            SpeechInputError: audio that does not go with the prompts one to one, or no prompt at all.
        """
        if inputs is not None:
            kwargs["input_features" if inputs.is_floating_point() else "input_ids"] = inputs
        has_prompt = kwargs.get("input_ids") is not None or kwargs.get("inputs_embeds") is not None
        if not has_prompt and kwargs.get("input_features_mask") is None:
            kwargs["input_features_mask"] = kwargs.pop("attention_mask", None)
        audio = self._take_audio(kwargs)
        if audio is not None:
            kwargs |= {"audio_features": audio.frames, "audio_features_mask": audio.mask}
            if not has_prompt:
                kwargs |= self._write_default_prompts(audio)
            elif len(audio.mask) != len(kwargs["input_ids"]):
                rows = len(kwargs["input_ids"])
                raise SpeechInputError(f"{len(audio.mask)} recordings for {rows} prompts: generate takes one for each")
        result = super().generate(**kwargs)
        return result if has_prompt or audio is None else _drop_prompt(result, kwargs["input_ids"].shape[1])

    def prepare_inputs_for_generation(
        self, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """What one step feeds to `forward`; audio goes in where the prompt does."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in AUDIO_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: torch.Tensor | None, model_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, str | None, dict[str, Any]]:
        # The main input is the spectrogram to whoever looks from outside, and the token ids to the decoding loop.
        model: Any = self
        name = model.main_input_name
        model.main_input_name = "input_ids"
        try:
            prepared: tuple[torch.Tensor, str | None, dict[str, Any]] = super()._prepare_model_inputs(
                inputs, bos_token_id, model_kwargs
            )
        finally:
            model.main_input_name = name
        return prepared

    def _take_audio(self, kwargs: dict[str, Any]) -> EncodedAudio | None:
        """Encode before beams multiply the rows."""
        names = ("input_features", "input_features_mask", *AUDIO_INPUTS)
        model: Any = self
        audio: EncodedAudio | None = model.model.collect_audio(*(kwargs.pop(name, None) for name in names))
        return audio

    def _write_default_prompts(self, audio: EncodedAudio) -> dict[str, torch.Tensor]:
        """Left-padded prompts (N, L) and their masks, each with its recording's number of placeholders."""
        prompt, placeholder = self.config.default_prompt_ids, self.config.audio_token_id
        if prompt is None:
            raise SpeechInputError("this model has no prompt of its own: pass input_ids from its processor")
        start = prompt.index(placeholder)
        rows = [
            [*prompt[:start], *[placeholder] * count, *prompt[start + 1 :]]
            for count in audio.count_tokens(self.config.adaptor_config.downsampling)
        ]
        length = max(len(row) for row in rows)
        device = audio.mask.device
        return {
            # Padding is masked, so any id of the vocabulary does.
            "input_ids": torch.tensor([[0] * (length - len(row)) + row for row in rows], device=device),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device),
        }


def _drop_prompt(result: Any, length: int) -> Any:
    if isinstance(result, torch.Tensor):
        return result[:, length:]
    result.sequences = result.sequences[:, length:]
    return result
