"""The processor: audio and instructions become the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, WhisperFeatureExtractor
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from oblong.errors import SpeechInputError
from oblong.models.speech_lm.chat_template import AUDIO_TOKEN
from oblong.models.speech_lm.frames import SAMPLING_RATE, check_num_samples, count_encoder_frames, group_frames

DEFAULT_INSTRUCTION: Final = "Transcribe the speech."
LANGUAGE_INSTRUCTION: Final = "Transcribe the {language} speech."

Audio = np.ndarray[Any, Any] | torch.Tensor | Sequence[float]


def find_language_name(language: str) -> str | None:
    """What prompts call a language, `German` for `de` or `german`; None for one that Whisper does not know."""
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    return LANGUAGES[code].title() if code in LANGUAGES else None


class SpeechLMProcessor(ProcessorMixin):
    """Feature extractor and tokenizer in one, with the prompts.

    Attributes:
        feature_extractor: Whisper's.
        tokenizer: the language model's, with `<|audio|>` added.
        audio_token: the placeholder; the processor repeats it once for each audio token.
        audio_token_id: its id, which may lie past the model's vocabulary.
        downsampling: encoder frames per audio token, the adaptor's.
        end_of_turn: what ends the assistant's turn.
        instruction: asks for a transcription where the caller gives no prompt.
    """

    text_kwargs: Any = {"padding": True, "return_tensors": "pt", "add_special_tokens": False}
    audio_kwargs: Any = {"sampling_rate": SAMPLING_RATE, "return_attention_mask": True, "return_tensors": "pt"}

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        audio_token: str = AUDIO_TOKEN,
        downsampling: int = 4,
        end_of_turn: str = "",
        instruction: str = DEFAULT_INSTRUCTION,
    ) -> None:
        self.audio_token = audio_token
        ids: Any = tokenizer.convert_tokens_to_ids(audio_token)
        self.audio_token_id: int = ids
        self.downsampling = downsampling
        self.end_of_turn = end_of_turn
        self.instruction = instruction
        super().__init__(  # type: ignore[no-untyped-call]
            feature_extractor, tokenizer, chat_template=chat_template
        )

    def __call__(self, text: Any = None, audio: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare prompts and the audio that their placeholders stand for.

        Args:
            text: one prompt or several, with `<|audio|>` where audio is heard.
            audio: recordings at 16 kHz, mono, floating-point; as many as placeholders, in their order.
            kwargs: see transformers' processors; prompts are padded on the left unless `padding_side` says otherwise.

        Returns:
            `input_ids`, `attention_mask`, and with audio `input_features`, `input_features_mask`.

        Raises:
            SpeechInputError: audio that the encoder cannot take: too long, empty, stereo, another sampling rate.
        """
        given = (kwargs, kwargs.get("text_kwargs", {}), kwargs.get("common_kwargs", {}))
        if not any("padding_side" in group for group in given):
            kwargs["text_kwargs"] = {**kwargs.get("text_kwargs", {}), "padding_side": "left"}
        clips = None if audio is None else [as_mono(clip, index) for index, clip in enumerate(list_clips(audio))]
        features: BatchFeature = super().__call__(text=text, audio=clips, **kwargs)
        return features

    def make_prompt(self, *, language: str | None = None, prompt: str | None = None) -> str:
        """The text of a transcription request up to the assistant's first word, with one placeholder.

        Args:
            language: code (`de`) or name (`german`); it goes into the instruction.
            prompt: an instruction instead of the default one; `language` must be None then.

        Raises:
            SpeechInputError: an unknown language, or both.
        """
        instruction = prompt or self.make_instruction(language)
        if prompt is not None and language is not None:
            raise SpeechInputError("pass a prompt or a language, not both: the language is a part of the prompt")
        content = [{"type": "audio"}, {"type": "text", "text": instruction}]
        chat: Any = [{"role": "user", "content": content}]
        return str(self.apply_chat_template(chat, add_generation_prompt=True))

    def make_instruction(self, language: str | None) -> str:
        """The instruction for a language; the default one without."""
        if language is None:
            return self.instruction
        name = find_language_name(language)
        if name is None:
            raise SpeechInputError(f"there is no language {language!r}: use a code like de, or a name like german")
        return LANGUAGE_INSTRUCTION.format(language=name)

    def apply_transcription_request(
        self,
        audio: Any,
        language: str | Sequence[str | None] | None = None,
        prompt: str | Sequence[str | None] | None = None,
        tokenize: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Prepare recordings for transcription, as transformers' other audio language models do.

        Args:
            audio: one recording or several, 16 kHz, mono, floating-point.
            language: one for all, or one for each.
            prompt: the same, instead of the default instruction.
            tokenize: false for the prompts as text.
            kwargs: to `__call__`.

        Raises:
            SpeechInputError: see `__call__` and `make_prompt`; or a list of another length than the audio's.
        """
        clips = list_clips(audio)
        languages, prompts = (
            spread(value, len(clips), name) for name, value in (("language", language), ("prompt", prompt))
        )
        texts = [self.make_prompt(language=lang, prompt=text) for lang, text in zip(languages, prompts, strict=True)]
        return self(text=texts, audio=clips, **kwargs) if tokenize else texts

    def _process_audio(self, audio: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        rate, expected = kwargs.get("sampling_rate"), self.feature_extractor.sampling_rate
        if rate != expected:
            raise SpeechInputError(f"the audio is at {rate} Hz and the encoder takes {expected} Hz: resample it first")
        for index, clip in enumerate(audio):
            check_num_samples(len(clip), self.feature_extractor.n_samples, name=f"recording {index}")
        features = self.feature_extractor(list(audio), **kwargs)
        features["input_features_mask"] = features.pop("attention_mask")
        features["num_audio_tokens"] = [
            group_frames(count_encoder_frames(len(clip)), self.downsampling) for clip in audio
        ]
        return features, [self.replace_audio_token(features, index) for index in range(len(audio))]

    def replace_audio_token(self, audio_inputs: Any, audio_idx: int, **kwargs: Any) -> str:
        """The placeholders of one recording."""
        del kwargs
        return self.audio_token * int(audio_inputs["num_audio_tokens"][audio_idx])

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` may return."""
        return [*super().model_input_names, "input_features_mask"]

    @property
    def unused_input_names(self) -> list[str]:
        """What it computes on the way and keeps to itself."""
        return ["num_audio_tokens"]


def list_clips(audio: Any) -> list[Any]:
    """One recording or several as a list of recordings.

    Raises:
        SpeechInputError: a path, or nothing at all.
    """
    is_one = isinstance(audio, np.ndarray | torch.Tensor | str) or (len(audio) > 0 and isinstance(audio[0], float))
    clips = [audio] if is_one else list(audio)
    if not clips:
        raise SpeechInputError("there is no audio: pass at least one recording")
    if any(isinstance(clip, str) for clip in clips):
        raise SpeechInputError(
            "the processor takes samples, not paths: load files with oblong.corpora.speech.load_audio"
        )
    return clips


def as_mono(clip: Audio, index: int) -> np.ndarray[Any, Any]:
    """A recording as float32 samples.

    Raises:
        SpeechInputError: more than one channel, integers, or numbers that are not finite.
    """
    samples = clip.detach().cpu().numpy() if isinstance(clip, torch.Tensor) else np.asarray(clip)
    if samples.ndim != 1:
        raise SpeechInputError(
            f"recording {index} has shape {samples.shape}: pass mono samples, one number each; a mean mixes channels"
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise SpeechInputError(f"recording {index} holds {samples.dtype}: divide by the largest value for -1 to 1")
    if not np.isfinite(samples).all():
        raise SpeechInputError(f"recording {index} has samples that are not finite numbers")
    return samples.astype(np.float32, copy=False)


def spread(value: str | Sequence[str | None] | None, count: int, name: str) -> list[str | None]:
    """One value for all recordings, or one for each.

    Raises:
        SpeechInputError: another number of values than recordings.
    """
    if value is None or isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise SpeechInputError(f"{len(value)} values of {name} for {count} recordings: pass one, or one for each")
    return list(value)
