"""Models load strictly: all weights or an error, and a delta on top bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oblong.errors import CorruptCheckpointError, ModelNotFoundError, UnsupportedFormatError
from oblong.models.causal_lm import Dtype, load_causal_lm
from oblong.models.names import match_parameters
from oblong.models.stored_tensors import open_stored_tensors
from tests.tuning_builders import save_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_directory_loads_in_the_dtype_asked_for(model: Path, name: Dtype, dtype: torch.dtype) -> None:
    loaded = load_causal_lm(str(model), dtype=name)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert not loaded.model.training
    assert loaded.path == model
    assert loaded.tokenizer.eos_token_id == 256


def test_single_file_equals_its_directory(model: Path) -> None:
    by_file = load_causal_lm(str(model / "model.safetensors")).model.state_dict()
    for name, tensor in load_causal_lm(str(model)).model.state_dict().items():
        assert torch.equal(tensor, by_file[name])


def test_single_file_without_config_says_what_to_put_beside_it(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(UnsupportedFormatError, match=r"no config\.json in .*tokenizer files there"):
        load_causal_lm(str(copy / "model.safetensors"))


def test_missing_tokenizer_is_named(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UnsupportedFormatError, match="tokenizer cannot be loaded"):
        load_causal_lm(str(copy))


def test_missing_weight_is_never_filled_with_random_numbers(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpointError, match=r"lacks tensors .*layers\.0\.mlp\.up_proj"):
        load_causal_lm(str(copy))


def test_truncated_weights_are_corrupt(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpointError):
        load_causal_lm(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "no-such-model"}, "no-such-model"), ({"model_type": "t5"}, "not a causal language model")],
)
def test_other_architectures_are_refused(copy: Path, change: dict[str, str], message: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnsupportedFormatError, match=message):
        load_causal_lm(str(copy))


def test_unknown_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_causal_lm(str(tmp_path / "nowhere"))


def test_loading_prints_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_causal_lm(str(model))
    assert capfd.readouterr() == ("", "")


def test_names_match_with_and_without_the_base_prefix(model: Path) -> None:
    loaded = load_causal_lm(str(model)).model
    names = ["model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight", "lm_head.weight", "nothing"]
    matches = match_parameters(loaded, [*names, "model.embed_tokens.weight"])
    assert matches[names[0]] is matches[names[1]]
    assert matches["lm_head.weight"] is matches["model.embed_tokens.weight"]
    assert "nothing" not in matches


def test_stored_tensors_are_the_files_bits(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    stored = open_stored_tensors(model)
    assert set(stored.names) == set(weights)
    for name, tensor in stored.iterate():
        assert tensor.dtype == weights[name].dtype
        assert torch.equal(tensor, weights[name])


def test_stored_tensors_keep_empty_and_scalar_and_integer_tensors(tmp_path: Path) -> None:
    tensors = {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5), "ints": torch.arange(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    stored = open_stored_tensors(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(stored.read(name), tensor)
