"""Frames and tokens are counted the same from samples, from the mask and by the model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import VoxtralEncoderConfig, WhisperFeatureExtractor

from oblong.errors import SpeechInputError
from oblong.models.speech_lm import AdaptorConfig, SpeechLMConfig
from oblong.models.speech_lm.frames import count_audio_tokens, count_encoder_frames, count_mask_frames, group_frames

CONFIG = SpeechLMConfig(audio_config=VoxtralEncoderConfig())


@pytest.mark.parametrize(
    ("num_samples", "num_tokens"),
    # 2 s: 200 spectrogram frames, 100 encoder frames, 25 tokens; 0.1 s: 10, 5 and ceil(5 / 4).
    [(1, 1), (320, 1), (1600, 2), (1280, 1), (1281, 2), (32_000, 25), (32_001, 26), (80_000, 63), (480_000, 375)],
)
def test_tokens_of_known_lengths(num_samples: int, num_tokens: int) -> None:
    assert count_audio_tokens(num_samples, CONFIG) == num_tokens


def test_downsampling_is_the_adaptors() -> None:
    config = SpeechLMConfig(audio_config=VoxtralEncoderConfig(), adaptor_config=AdaptorConfig(downsampling=8))
    assert count_audio_tokens(32_000, config) == 13


@settings(max_examples=25, deadline=None)
@given(st.integers(min_value=1, max_value=16_000))
def test_samples_and_the_feature_extractors_mask_agree(num_samples: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=4, chunk_length=1)  # type: ignore[no-untyped-call]
    samples = np.zeros(num_samples, dtype=np.float32)
    mask = extractor(samples, sampling_rate=16_000, return_attention_mask=True)["attention_mask"]
    assert count_mask_frames(int(mask.sum())) == count_encoder_frames(num_samples)


def test_groups_that_are_not_full_count() -> None:
    assert [group_frames(count, 4) for count in (1, 3, 4, 5, 8, 9)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(("num_samples", "said"), [(0, "is empty"), (31 * 16_000, "31.00 s long .* 30.00 s at once")])
def test_what_the_window_cannot_hold_is_refused(num_samples: int, said: str) -> None:
    with pytest.raises(SpeechInputError, match=said):
        count_audio_tokens(num_samples, CONFIG)
