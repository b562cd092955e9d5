"""The adaptor starts as join, linear, norm; pads no influence into its tokens; and keeps its precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, VoxtralEncoderConfig

from oblong.errors import SpeechModelError
from oblong.models.speech_lm import AdaptorConfig, SpeechLMConfig
from oblong.models.speech_lm.adaptor import SpeechAdaptor, encode_positions
from tests.speech_builders import build_tiny, wake_attention


def make_config(**adaptor: Any) -> SpeechLMConfig:
    return SpeechLMConfig(
        audio_config=VoxtralEncoderConfig(hidden_size=16, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=32, num_attention_heads=2, num_key_value_heads=2),
        adaptor_config=AdaptorConfig(**adaptor),
    )


def make_adaptor(**adaptor: Any) -> SpeechAdaptor:
    torch.manual_seed(0)
    return SpeechAdaptor(make_config(**adaptor)).double()


def make_frames(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    frames = torch.randn(len(lengths), max(lengths), 16, generator=generator, dtype=torch.float64)
    return frames, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kind", ["attention", "linear"])
def test_a_fresh_adaptor_joins_projects_and_normalises(kind: str) -> None:
    adaptor = make_adaptor(kind=kind)
    adaptor.set_output_scale(0.1)
    frames, mask = make_frames(8)
    tokens, _ = adaptor(frames, mask)
    projected = adaptor.projection(frames.reshape(1, 2, 64))
    once = functional.layer_norm(projected, (32,))
    expected = functional.layer_norm(once, (32,)) if kind == "attention" else once
    torch.testing.assert_close(tokens, 0.1 * expected, rtol=1e-12, atol=1e-12)
    assert float(tokens.detach().square().mean().sqrt()) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("adaptor_options", [{}, {"kind": "linear"}, {"bottleneck": 8}, {"downsampling": 3}])
def test_padding_and_neighbours_do_not_change_a_recordings_tokens(adaptor_options: dict[str, Any]) -> None:
    adaptor = make_adaptor(**adaptor_options)
    for layer in adaptor.layers:
        torch.nn.init.normal_(layer.out_proj.weight)  # type: ignore[arg-type, union-attr]
    frames, mask = make_frames(13, 6)
    frames[1, 6:] = torch.nan
    tokens, token_mask = adaptor(frames, mask)
    alone, alone_mask = adaptor(frames[1:, :6], mask[1:, :6])
    torch.testing.assert_close(tokens[1][token_mask[1]], alone[0][alone_mask[0]], rtol=1e-11, atol=1e-11)
    assert token_mask.sum(-1).tolist() == [-(-13 // adaptor.downsampling), -(-6 // adaptor.downsampling)]


def test_attention_knows_the_order_of_its_tokens() -> None:
    adaptor = make_adaptor()
    torch.nn.init.normal_(adaptor.layers[0].out_proj.weight)  # type: ignore[arg-type, union-attr]
    frames, mask = make_frames(16)
    forwards, _ = adaptor(frames, mask)
    backwards, _ = adaptor(frames.reshape(1, 4, 64).flip(1).reshape(1, 16, 16), mask)
    assert not torch.allclose(forwards, backwards.flip(1), atol=1e-3)


def test_positions_are_sinusoids() -> None:
    table = encode_positions(3, 5, torch.zeros(1, dtype=torch.float64))
    assert table.shape == (3, 5)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    assert float(table[2, 0]) == pytest.approx(0.9092974268)  # sin 2


def test_a_float32_adaptor_is_not_narrowed_by_autocast(tmp_path: Path) -> None:
    model, _ = build_tiny(tmp_path, dtype="bfloat16")
    wake_attention(model)
    frames = torch.randn(2, 12, 16, dtype=torch.bfloat16)
    mask = torch.ones(2, 12, dtype=torch.bool)
    plain, _ = model.model.multi_modal_projector(frames, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast, _ = model.model.multi_modal_projector(frames, mask)
    assert plain.dtype == autocast.dtype == torch.float32
    assert torch.equal(plain, autocast)


@pytest.mark.parametrize(
    ("adaptor_options", "said"),
    [
        ({"num_heads": 7}, "32 wide, which 7 attention heads"),
        ({"bottleneck": 12}, "12 wide, which 8 attention heads"),
        ({"kind": "qformer"}, "no adaptor of kind 'qformer'"),
        ({"downsampling": 0}, "downsampling is 0"),
    ],
)
def test_impossible_adaptors_are_refused(adaptor_options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpeechModelError, match=said):
        make_config(**adaptor_options)
