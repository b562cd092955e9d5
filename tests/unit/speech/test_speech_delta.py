"""A delta comes back bit for bit, on its own towers only, and nothing about it can be changed unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from oblong.cli.main import app
from oblong.errors import (
    CorruptCheckpointError,
    ModelNotFoundError,
    OblongError,
    OutputExistsError,
    RecordError,
    SpeechModelError,
    UnsupportedFormatError,
    UserError,
    VerificationError,
)
from oblong.models.causal_lm import Dtype
from oblong.models.speech_lm import load_speech_lm
from oblong.records import SPEECH_DELTA_FILE, SpeechDelta
from oblong.speech.arms import load_speech_delta, merge_speech_delta, read_speech_delta, verify_speech_delta
from oblong.speech.arms.applying import digest_unstored
from oblong.speech.decoding import DecodingSettings
from oblong.speech.loading import load_transcriber
from tests.arm_builders import KINDS, Study, transcribe
from tests.speech_builders import make_tones, save_chatty_llama, save_tiny_whisper

peft: Any = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with towers and a Plan's delta; read only."""
    folder = tmp_path_factory.mktemp("planned")
    make_delta(folder)
    return folder


def make_delta(folder: Path, kind: str = "plan", *, dtype: Dtype = "float32") -> tuple[Study, Path]:
    study = Study.make(folder, kind, dtype=dtype)
    study.train()
    return study, study.write()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, kind: str, dtype: Dtype) -> None:
    study, delta = make_delta(tmp_path, kind, dtype=dtype)
    model, processor = load_speech_delta(delta, dtype=dtype)
    loaded = dict(model.named_parameters())
    for name, parameter in study.model.named_parameters():
        # A Plan's masters take the towers' dtype; adaptor and LoRA stay float32.
        assert torch.equal(loaded[name], parameter.to(loaded[name].dtype)), name
    assert not any(p.requires_grad for n, p in loaded.items() if "multi_modal_projector" not in n)
    assert torch.equal(transcribe(model, processor), transcribe(study.model, study.processor))
    whole, _ = load_speech_delta(delta, dtype="float32")
    for name, parameter in study.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(whole.get_parameter(name), parameter), name


def test_the_manifest_says_what_it_is_and_what_it_stands_on(tmp_path: Path) -> None:
    study, delta = make_delta(tmp_path, dtype="bfloat16")
    manifest = SpeechDelta.read(delta / SPEECH_DELTA_FILE)
    assert (manifest.arm, manifest.plan_name, manifest.lora) == ("plan", "test", None)
    assert study.applied.plan is not None
    assert manifest.plan_digest == study.applied.plan.digest()
    assert manifest.description == study.applied.description
    assert manifest.encoder.name == str(tmp_path / "whisper")
    assert all("encoder." in name for name in manifest.encoder.tensors)
    assert set(manifest.language_model.tensors) == set(load_file(tmp_path / "llama" / "model.safetensors"))
    assert set(manifest.stored["trained.safetensors"]) == set(study.applied.trained)
    assert set(manifest.fraction_moved) == set(study.applied.trained)
    assert all(0.5 < share <= 1.0 for share in manifest.fraction_moved.values())
    files = {path.relative_to(delta).as_posix() for path in delta.rglob("*") if path.is_file()}
    assert files == {SPEECH_DELTA_FILE, *manifest.stored, *manifest.files}


def test_a_delta_is_small(tmp_path: Path) -> None:
    _, delta = make_delta(tmp_path, "adaptor_only")
    assert [path.name for path in delta.glob("*.safetensors")] == ["adaptor.safetensors"]


@pytest.mark.parametrize("kind", ["plan", "audio_gated_lora"])
def test_a_delta_transcribes_wherever_a_model_does(tmp_path: Path, kind: str) -> None:
    study, delta = make_delta(tmp_path, kind)
    loaded = load_transcriber(str(delta), device="cpu")
    heard = loaded.transcriber.transcribe(make_tones([0.3, 0.8]), None, DecodingSettings(batch_size=2))
    model, processor = load_speech_delta(delta, dtype="float32")
    assert len(heard) == 2
    assert torch.equal(transcribe(model, processor), transcribe(study.model, study.processor))
    with pytest.raises(UnsupportedFormatError, match="is the delta of a speech LLM, not the whole of it"):
        load_speech_lm(delta)


@pytest.mark.parametrize("silence", [0.0, 0.2])
def test_the_encoder_hears_as_much_silence_as_in_training(tmp_path: Path, silence: float) -> None:
    study = Study.make(tmp_path, "adaptor_only", dtype="float32")
    study.model.config.trailing_silence = silence
    study.train()
    delta = study.write()
    merged = merge_speech_delta(delta, tmp_path / "merged")
    request = study.processor.apply_transcription_request(make_tones([0.3, 0.8]))
    spectrograms = (request["input_features"], request["input_features_mask"])
    expected = study.model.encode_audio(*spectrograms).frames
    for model, _ in (load_speech_delta(delta, dtype="float32"), load_speech_lm(merged, dtype="float32")):
        assert model.config.trailing_silence == silence
        assert torch.equal(model.encode_audio(*spectrograms).frames, expected)


def test_a_frozen_tensor_that_moved_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    study = Study.make(tmp_path, "lora")
    with torch.no_grad():
        study.model.model.audio_tower.conv1.weight.view(-1)[0] += 1
        study.model.model.language_model.layers[0].self_attn.q_proj.base_layer.weight.view(-1)[0] += 1
    with pytest.raises(VerificationError) as caught:
        study.write()
    assert caught.value.problems == (
        "model.encoder.conv1.weight: was to stay frozen, and moved",
        "model.layers.0.self_attn.q_proj.weight: was to stay frozen, and moved",
    )
    assert not (tmp_path / "delta").exists()


def test_a_frozen_parameter_that_the_file_has_no_image_of_is_watched_too(tmp_path: Path) -> None:
    study = Study.make(tmp_path, "adaptor_only")
    # As if transformers had fused this one from several tensors.
    parameters = dict(study.applied.language_model)
    fused = parameters.pop("model.norm.weight")
    unstored = digest_unstored(study.model.as_causal_lm(), parameters)
    watched = replace(study, applied=replace(study.applied, language_model=parameters, unstored=unstored))
    watched.write()
    with torch.no_grad():
        fused.add_(1)
    with pytest.raises(VerificationError, match=r"model\.norm\.weight: was to stay frozen, and moved"):
        watched.write(replace=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tied_embeddings_and_norms_can_be_in_the_plan(tmp_path: Path, dtype: Dtype) -> None:
    names = ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight")
    study = Study.make(tmp_path, "plan", dtype=dtype, names=names)
    study.train()
    model, _ = load_speech_delta(study.write(), dtype="float32")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, study.model.lm_head.weight)
    assert torch.equal(model.lm_head.weight, study.applied.trained[names[0]])
    for name, parameter in study.applied.trained.items():
        assert torch.equal(model.get_parameter(f"model.language_model.{name.removeprefix('model.')}"), parameter)


def test_a_delta_is_replaced_only_on_request(tmp_path: Path) -> None:
    study, delta = make_delta(tmp_path, "adaptor_only")
    first = read_speech_delta(delta).manifest
    study.train()
    with pytest.raises(OutputExistsError):
        study.write()
    assert read_speech_delta(delta).manifest == first
    study.write(replace=True)
    assert read_speech_delta(delta).manifest.stored != first.stored


def test_a_delta_in_the_hubs_cache_is_made_of_links(planned: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for path in (planned / "delta").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert read_speech_delta(tmp_path / "snapshot").manifest == read_speech_delta(planned / "delta").manifest


def test_towers_that_moved_are_found_where_the_user_says(tmp_path: Path) -> None:
    study, delta = make_delta(tmp_path)
    (tmp_path / "llama").rename(tmp_path / "moved")
    with pytest.raises(ModelNotFoundError, match="the language model that the delta was trained on"):
        load_speech_delta(delta)
    model, processor = load_speech_delta(delta, dtype="float32", language_model=str(tmp_path / "moved"))
    assert torch.equal(transcribe(model, processor), transcribe(study.model, study.processor))


def test_a_tower_that_was_replaced_is_refused(tmp_path: Path) -> None:
    _, delta = make_delta(tmp_path, "adaptor_only")
    save_chatty_llama(tmp_path / "other llama", seed=1, dtype=torch.float32)
    save_tiny_whisper(tmp_path / "other whisper", seed=1)
    with pytest.raises(SpeechModelError, match=r"other llama is not the language model .*embed_tokens.* and 12 more"):
        load_speech_delta(delta, language_model=str(tmp_path / "other llama"))
    with pytest.raises(SpeechModelError, match="other whisper is not the encoder"):
        load_speech_delta(delta, encoder=str(tmp_path / "other whisper"))
    path = tmp_path / "llama" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    with pytest.raises(SpeechModelError, match=r"language model's rms_norm_eps was 1e-06 and is 0\.1"):
        load_speech_delta(delta)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def edit(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("name", "spoil", "error"),
    [
        ("trained.safetensors", Path.unlink, CorruptCheckpointError),
        ("trained.safetensors", truncate, CorruptCheckpointError),
        ("trained.safetensors", flip_a_bit, CorruptCheckpointError),
        ("trained.safetensors", drop_a_tensor, CorruptCheckpointError),
        ("adaptor.safetensors", flip_a_bit, CorruptCheckpointError),
        ("config.json", edit(audio_token_id=3), CorruptCheckpointError),
        ("tokenizer.json", Path.unlink, CorruptCheckpointError),
        (SPEECH_DELTA_FILE, Path.unlink, RecordError),
        (SPEECH_DELTA_FILE, truncate, RecordError),
        (SPEECH_DELTA_FILE, edit(schema_version=2), RecordError),
        (SPEECH_DELTA_FILE, edit(kind="oblong.plan"), RecordError),
        (SPEECH_DELTA_FILE, edit(arm="adaptor_only"), CorruptCheckpointError),
        (SPEECH_DELTA_FILE, edit(arm="lora"), CorruptCheckpointError),
        (SPEECH_DELTA_FILE, edit(files={"../llama/config.json": ""}), CorruptCheckpointError),
    ],
)
def test_a_spoilt_delta_is_refused_by_name(
    planned: Path, tmp_path: Path, name: str, spoil: Callable[[Path], None], error: type[OblongError]
) -> None:
    delta = shutil.copytree(planned / "delta", tmp_path / "delta")
    spoil(delta / name)
    with pytest.raises(error) as caught:
        load_speech_delta(delta)
    assert isinstance(caught.value, UserError)
    assert "delta" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"rank": 10**12}, CorruptCheckpointError, "does not hold the adapters"),
        ({"modules": ["layers.0.mlp.up_proj"]}, CorruptCheckpointError, "does not hold the adapters"),
        ({"modules": []}, RecordError, "modules"),
    ],
)
def test_a_manifest_that_asks_for_other_adapters_is_refused(
    tmp_path: Path, fields: dict[str, object], error: type[OblongError], message: str
) -> None:
    _, delta = make_delta(tmp_path, "lora")
    path = delta / SPEECH_DELTA_FILE
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"lora": data["lora"] | fields}))
    with pytest.raises(error, match=message):
        load_speech_delta(delta)


@pytest.mark.parametrize("kind", ["plan", "adaptor_only", "lora"])
def test_a_merged_delta_is_an_ordinary_speech_llm(tmp_path: Path, kind: str) -> None:
    study, delta = make_delta(tmp_path, kind)
    output = merge_speech_delta(delta, tmp_path / "merged")
    model, processor = load_speech_lm(output, dtype="float32")
    batch = processor.apply_transcription_request(make_tones([0.3, 0.8]))
    ours, theirs = model(**batch).logits, study.model(**batch).logits
    if kind == "lora":
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(ours, theirs)
    verification = verify_speech_delta(delta, merged=str(output))
    assert [check.statement for check in verification.checks][-1] == "the merged model: the delta on its towers"
    narrow = merge_speech_delta(delta, tmp_path / "narrow", dtype="bfloat16")
    assert load_file(narrow / "model.safetensors")["model.language_model.norm.weight"].dtype == torch.bfloat16
    verify_speech_delta(delta, merged=str(narrow))
    tensors = load_file(output / "model.safetensors")
    tensors["model.language_model.norm.weight"][0] += 1
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match=r"norm\.weight: the merged model's is not"):
        verify_speech_delta(delta, merged=str(output))


def test_gated_adapters_are_not_merged(tmp_path: Path) -> None:
    _, delta = make_delta(tmp_path, "audio_gated_lora")
    with pytest.raises(SpeechModelError, match="merged into the weights it would change text"):
        merge_speech_delta(delta, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert len(verify_speech_delta(delta).checks) == 4


def test_a_merge_never_replaces_a_delta(tmp_path: Path) -> None:
    _, delta = make_delta(tmp_path, "adaptor_only")
    with pytest.raises(OutputExistsError):
        merge_speech_delta(delta, delta)
    with pytest.raises(UserError, match="is no merged model and will not be replaced"):
        merge_speech_delta(delta, delta, force=True)


def test_merge_and_verify_take_a_delta_on_the_command_line(tmp_path: Path) -> None:
    _, delta = make_delta(tmp_path)
    runner = CliRunner()
    shutil.move(tmp_path / "llama", tmp_path / "moved")
    base = ["--base", str(tmp_path / "moved")]
    merged = str(tmp_path / "merged")
    assert runner.invoke(app, ["merge", str(delta), "-o", merged, *base]).exit_code == 0
    result = runner.invoke(app, ["verify", str(delta), "--model", merged, *base])
    assert result.exit_code == 0, result.output
    assert "verified" in result.output


def test_an_untrained_plan_is_found_out(tmp_path: Path) -> None:
    delta = Study.make(tmp_path, "plan").write()
    with pytest.raises(VerificationError, match=r"down_proj\.weight: in the Plan, but no element of it moved"):
        verify_speech_delta(delta)
