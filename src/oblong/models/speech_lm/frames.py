"""How many frames and tokens a recording becomes: counted here and nowhere else.

Whisper hears 16 kHz audio through a spectrogram of one frame per 160 samples and a convolution of stride 2, so one
encoder frame stands for 320 samples (20 ms). A frame is valid when the instant it is centred on lies inside the
recording: frame k of the spectrogram is centred on sample 160 k, so n samples have ceil(n / 160) valid ones. That is
also the number of ones in the mask that transformers' feature extractor makes of a recording padded to 30 s, so that
counting samples and counting the mask agree, for every n. The adaptor then joins `downsampling` frames into one audio
token; a last group that is not full counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from oblong.errors import SpeechInputError

if TYPE_CHECKING:
    import torch

    from oblong.models.speech_lm.configuration import SpeechLMConfig

SAMPLING_RATE: Final = 16_000
# Source: openai/whisper, audio.py, `HOP_LENGTH`, and model.py, `AudioEncoder.conv2`.
HOP_LENGTH: Final = 160
CONVOLUTION_STRIDE: Final = 2
SAMPLES_PER_FRAME: Final = HOP_LENGTH * CONVOLUTION_STRIDE

Count = TypeVar("Count", int, "torch.Tensor")


def count_audio_tokens(num_samples: int, config: SpeechLMConfig) -> int:
    """The number of placeholders that a recording takes in the prompt.

    Args:
        num_samples: of the recording at 16 kHz, without padding.
        config: of the model.

    Raises:
        SpeechInputError: the recording is empty, or longer than the encoder's window.
    """
    check_num_samples(num_samples, count_window_samples(config.audio_config.max_source_positions))
    return group_frames(count_encoder_frames(num_samples), config.adaptor_config.downsampling)


def count_encoder_frames(num_samples: int) -> int:
    """Valid encoder frames of a recording: ceil(ceil(n / 160) / 2) = ceil(n / 320)."""
    return -(-num_samples // SAMPLES_PER_FRAME)


def count_mask_frames(num_mel_frames: Count) -> Count:
    """Valid encoder frames of so many valid frames of the spectrogram: ceil(m / 2)."""
    return -(-num_mel_frames // CONVOLUTION_STRIDE)


def group_frames(num_frames: int, downsampling: int) -> int:
    """Audio tokens of so many encoder frames: ceil(T / k)."""
    return -(-num_frames // downsampling)


def count_window_samples(max_source_positions: int) -> int:
    """Samples that an encoder of so many positions hears at once: 480,000 (30 s) for Whisper's 1500."""
    return max_source_positions * SAMPLES_PER_FRAME


def check_num_samples(num_samples: int, limit: int, *, name: str = "the recording") -> None:
    """Refuse a recording that is empty or does not fit the encoder's window.

    Raises:
        SpeechInputError: with the length, and what to do.
    """
    if num_samples == 0:
        raise SpeechInputError(f"{name} is empty: it has no samples; leave it out")
    if num_samples > limit:
        seconds, most = num_samples / SAMPLING_RATE, limit / SAMPLING_RATE
        raise SpeechInputError(
            f"{name} is {seconds:.2f} s long and the encoder hears {most:.2f} s at once: cut it into windows, or "
            "use `oblong speech transcribe`, which does"
        )
