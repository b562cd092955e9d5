"""The whole of it learns: eight recordings to the last word, with the adaptor and a language model of 2 layers."""

from __future__ import annotations

from pathlib import Path

import torch

from oblong.models.speech_lm import check_supervision, make_training_inputs, pad_training_inputs
from oblong.models.speech_lm.frames import count_audio_tokens
from tests.speech_builders import build_tiny, make_tones

TEXTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def test_eight_recordings_are_learned_to_word_error_rate_zero(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path)
    clips = make_tones([0.4 + 0.05 * index for index in range(len(TEXTS))])
    counts = [count_audio_tokens(len(clip), model.config) for clip in clips]
    items = [
        make_training_inputs(processor, num_audio_tokens=count, text=text)
        for text, count in zip(TEXTS, counts, strict=True)
    ]
    batch = pad_training_inputs(items, processor)
    check_supervision(processor, batch, texts=TEXTS, num_audio_tokens=counts)
    request = processor.apply_transcription_request(clips)
    features = model.encode_audio(request["input_features"], request["input_features_mask"]).split()
    model.model.language_model.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0.0)
    model.train()
    for _ in range(400):
        loss = model(**batch, audio_features=features).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.eval()
    output = model.generate(**request, max_new_tokens=10)[:, request["input_ids"].shape[1] :]
    assert tuple(processor.tokenizer.batch_decode(output, skip_special_tokens=True)) == TEXTS
