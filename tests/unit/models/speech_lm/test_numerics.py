"""Text is untouched, cached features are the same as fresh ones, and saving keeps every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

from oblong.errors import SpeechInputError
from oblong.models.quiet import quiet_transformers
from oblong.models.speech_lm import AdaptorConfig, load_speech_lm, make_training_inputs, pad_training_inputs
from oblong.models.speech_lm.frames import count_audio_tokens
from tests.speech_builders import SpeechLM, build_tiny, make_tones, wake_attention

SECONDS = (0.3, 1.0, 0.1)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def speech_lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeechLM:
    built = build_tiny(tmp_path_factory.mktemp(request.param), dtype=request.param)
    wake_attention(built[0])
    return built


def make_batch(speech_lm: SpeechLM) -> dict[str, torch.Tensor]:
    model, processor = speech_lm
    clips = make_tones(SECONDS)
    items = [
        make_training_inputs(processor, num_audio_tokens=count_audio_tokens(len(clip), model.config), text="ab" * row)
        for row, clip in enumerate(clips)
    ]
    request = processor.apply_transcription_request(clips)
    audio = {name: request[name] for name in ("input_features", "input_features_mask")}
    return pad_training_inputs(items, processor) | audio


def test_text_logits_are_those_of_the_language_model_alone(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    path = model.model.language_model.config._name_or_path
    bare: Any = AutoModelForCausalLM.from_pretrained(path, dtype=model.lm_head.weight.dtype)
    inputs = processor.tokenizer(["a text", "and a longer text"], return_tensors="pt", padding=True)
    assert torch.equal(model(**inputs).logits, bare(**inputs).logits)
    losses = [each(**inputs, labels=inputs["input_ids"]).loss for each in (model, bare)]
    assert torch.equal(*losses)


def test_cached_features_give_the_same_bits(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    features, mask = batch.pop("input_features"), batch.pop("input_features_mask")
    fresh = model(**batch, input_features=features, input_features_mask=mask)
    encoded = model.encode_audio(features, mask)
    padded = model(**batch, audio_features=encoded.frames, audio_features_mask=encoded.mask)
    listed = model(**batch, audio_features=encoded.split())
    for cached in (padded, listed):
        assert torch.equal(fresh.logits, cached.logits)
        assert torch.equal(fresh.loss, cached.loss)
        assert torch.equal(fresh.audio_hidden_states, cached.audio_hidden_states)


def test_the_adaptor_hears_valid_frames_only(speech_lm: SpeechLM) -> None:
    model, processor = speech_lm
    clips = make_tones(SECONDS)
    batch = processor.apply_transcription_request(clips)
    encoded = model.encode_audio(batch["input_features"], batch["input_features_mask"])
    assert [len(frames) for frames in encoded.split()] == [15, 50, 5]
    tokens = model.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output
    assert len(tokens) == sum(count_audio_tokens(len(clip), model.config) for clip in clips) == 4 + 13 + 2


def test_saving_keeps_every_bit(speech_lm: SpeechLM, tmp_path: Path) -> None:
    model, processor = speech_lm
    with quiet_transformers():
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
    dtype = "float32" if model.dtype == torch.float32 else "bfloat16"
    again, processor_again = load_speech_lm(tmp_path, dtype=dtype)  # type: ignore[arg-type]
    expected, found = dict(model.named_parameters()), dict(again.named_parameters())
    assert expected.keys() == found.keys()
    for name, parameter in expected.items():
        assert parameter.dtype == found[name].dtype
        assert torch.equal(parameter, found[name])
    batch = make_batch(speech_lm)
    assert torch.equal(again(**batch).loss, model(**batch).loss)
    assert again.lm_head.weight is again.get_input_embeddings().weight  # tied, as in the language model
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    clips = make_tones(SECONDS)
    for name, value in processor.apply_transcription_request(clips).items():
        assert torch.equal(processor_again.apply_transcription_request(clips)[name], value)


def test_auto_classes_find_it(speech_lm: SpeechLM, tmp_path: Path) -> None:
    model, processor = speech_lm
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found: Any = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert type(found) is type(model)
    assert found.model.multi_modal_projector.projection.weight.dtype == torch.float32
    assert found.dtype == model.dtype
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)  # type: ignore[no-untyped-call]


def test_an_adaptor_may_share_the_models_precision(tmp_path: Path) -> None:
    model, processor = build_tiny(tmp_path, dtype="bfloat16", adaptor=AdaptorConfig(keep_float32=False))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _ = load_speech_lm(tmp_path / "saved")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def test_accumulated_losses_are_divided_by_all_items(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    num_items = int((batch["labels"][:, 1:] != -100).sum())
    halves = [model(**batch, num_items_in_batch=2 * num_items).loss.item() for _ in range(2)]
    assert sum(halves) == pytest.approx(model(**batch).loss.item(), rel=1e-3)


def test_logits_where_labels_are_give_the_same_loss_and_gradients(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    model.freeze_towers()
    results = []
    for only in (False, True):
        output = model(**batch, labelled_logits_only=only)
        output.loss.backward()
        results.append((output, model.model.multi_modal_projector.projection.weight.grad.clone()))
        model.zero_grad(set_to_none=True)
    (whole, gradient), (part, same_gradient) = results
    places = batch["labels"][:, 1:] != -100
    # A product with fewer rows may be summed in another order.
    torch.testing.assert_close(part.logits, whole.logits[:, :-1][places])
    assert part.past_key_values is None
    torch.testing.assert_close(part.loss, whole.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(same_gradient, gradient, rtol=1e-3, atol=1e-6)


def test_gradients_reach_the_adaptor_and_no_frozen_tower(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    model.freeze_towers()
    model.train()
    model(**batch).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {
        f"model.multi_modal_projector.{n}" for n, _ in model.model.multi_modal_projector.named_parameters()
    }
    model.zero_grad()
    model.eval()


def test_gradient_checkpointing_changes_no_gradient(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    gradients = []
    for checkpointing in (False, True):
        model.freeze_towers()
        chosen: Any = model.model.language_model.layers[1].mlp.down_proj.weight
        chosen.requires_grad_(True)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            model(**batch).loss.backward()
        gradients.append([model.model.multi_modal_projector.projection.weight.grad, chosen.grad])
        model.zero_grad(set_to_none=True)
    model.activation_checkpointing_disable()
    model.freeze_towers()
    model.eval()
    for plain, recomputed in zip(*gradients, strict=True):
        assert float(plain.abs().max()) > 0
        assert torch.equal(plain, recomputed)


def test_frozen_towers_stay_in_evaluation_mode(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    model.freeze_towers()
    model.train()
    assert not model.model.audio_tower.training
    assert not model.model.language_model.training
    assert model.model.multi_modal_projector.training
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    layer: Any = model.model.language_model.layers[0]
    assert layer.training  # what recomputing asks for
    assert not layer.self_attn.training
    model.activation_checkpointing_disable()
    layer.mlp.up_proj.weight.requires_grad_(True)
    model.train()
    assert model.model.language_model.training
    assert not model.model.audio_tower.training
    model.freeze_towers()
    model.eval()


def test_prompts_and_audio_that_disagree_are_refused(speech_lm: SpeechLM) -> None:
    model, _ = speech_lm
    batch = make_batch(speech_lm)
    features, mask = batch.pop("input_features"), batch.pop("input_features_mask")
    with pytest.raises(SpeechInputError, match="19 audio placeholders and the audio makes 17 tokens"):
        model(**batch, input_features=features[:2], input_features_mask=mask[:2])
    with pytest.raises(SpeechInputError, match="no audio was passed"):
        model(**batch)
    encoded = model.encode_audio(features, mask)
    with pytest.raises(SpeechInputError, match="12 wide and this model's encoder 16"):
        model(**batch, audio_features=[frames[:, :12] for frames in encoded.split()])
    with pytest.raises(SpeechInputError, match="not both"):
        model(**batch, input_features=features, audio_features=encoded.split())
