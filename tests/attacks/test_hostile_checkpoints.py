"""Checkpoints are untrusted input: each attack is named, exits with 2, and leaves every file as it was."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.numpy import save_file

from oblong.checkpoints import open_checkpoint
from oblong.cli.main import run
from oblong.errors import CorruptCheckpointError
from tests.checkpoint_builders import llama_tensors, make_weights, write_model, write_raw, write_sharded

Attack = Callable[[Path], Path]

ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def missing_path(place: Path) -> Path:
    return place / "nowhere"


def empty_directory(place: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def directory_without_weights(place: Path) -> Path:
    (place / "config.json").write_text("{}")
    return place


def text_file(place: Path) -> Path:
    (place / "model.txt").write_text("weights")
    return place / "model.txt"


def empty_file(place: Path) -> Path:
    (place / "m.safetensors").touch()
    return place / "m.safetensors"


def truncated_data(place: Path) -> Path:
    path = write_model(place) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return place


def header_longer_than_file(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": ENTRY}, bytes(16), length=5000)


def header_of_exabytes(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": ENTRY}, bytes(16), length=2**63)


def header_is_no_json(place: Path) -> Path:
    return write_raw(place / "m.safetensors", b"{not json", bytes(16))


def header_is_a_list(place: Path) -> Path:
    return write_raw(place / "m.safetensors", b"[1, 2]  ", bytes(16))


def header_nests_too_deep(place: Path) -> Path:
    return write_raw(place / "m.safetensors", b'{"a":' * 100_000, bytes(16))


def key_occurs_twice(place: Path) -> Path:
    entry = json.dumps(ENTRY)
    return write_raw(place / "m.safetensors", f'{{"w": {entry}, "w": {entry}}}'.encode(), bytes(16))


def overlapping_offsets(place: Path) -> Path:
    other = {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}
    return write_raw(place / "m.safetensors", {"v": ENTRY, "w": other}, bytes(24))


def hole_between_tensors(place: Path) -> Path:
    other = {"dtype": "F32", "shape": [2, 2], "data_offsets": [32, 48]}
    return write_raw(place / "m.safetensors", {"v": ENTRY, "w": other}, bytes(48))


def offsets_beyond_the_file(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": {**ENTRY, "data_offsets": [0, 2**40]}}, bytes(16))


def negative_offsets(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": {**ENTRY, "data_offsets": [-16, 0]}}, bytes(16))


def shape_larger_than_data(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": {**ENTRY, "shape": [2**31, 2**31]}}, bytes(16))


def negative_shape(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": {**ENTRY, "shape": [-2, -2]}}, bytes(16))


def unknown_dtype(place: Path) -> Path:
    return write_raw(place / "m.safetensors", {"w": {**ENTRY, "dtype": "Q4_0"}}, bytes(16))


def no_tensor(place: Path) -> Path:
    save_file({}, place / "m.safetensors")
    return place / "m.safetensors"


def index_names_missing_shard(place: Path) -> Path:
    write_sharded(place, {"one.safetensors": {"v": make_weights(2, 2)}, "two.safetensors": {"w": make_weights(2, 2)}})
    (place / "two.safetensors").unlink()
    return place


def index_points_elsewhere(place: Path) -> Path:
    (place / "secret.safetensors").touch()
    (place / "model").mkdir()
    index = {"weight_map": {"w": "../secret.safetensors"}}
    (place / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    return place / "model"


def index_misplaces_a_tensor(place: Path) -> Path:
    write_sharded(place, {"one.safetensors": {"v": make_weights(2, 2)}, "two.safetensors": {"w": make_weights(2, 2)}})
    index = {"weight_map": {"v": "two.safetensors", "w": "two.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def index_without_map(place: Path) -> Path:
    write_model(place)
    (place / "model.safetensors.index.json").write_text('{"metadata": {}}')
    return place


def index_is_no_json(place: Path) -> Path:
    write_model(place)
    (place / "model.safetensors.index.json").write_text("{")
    return place


def two_files_hold_one_tensor(place: Path) -> Path:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"w": make_weights(2, 2)}, place / name)
    return place


def config_is_no_json(place: Path) -> Path:
    write_model(place)
    (place / "config.json").write_text("{")
    return place


def gguf_without_magic(place: Path) -> Path:
    (place / "m.gguf").write_bytes(b"FUGG" + bytes(100))
    return place / "m.gguf"


def make_gguf(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("output.weight", make_weights(32, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_with_truncated_data(place: Path) -> Path:
    path = make_gguf(place / "m.gguf")
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def gguf_with_truncated_header(place: Path) -> Path:
    path = make_gguf(place / "m.gguf")
    path.write_bytes(path.read_bytes()[:40])
    return path


def gguf_with_a_name_that_is_no_text(place: Path) -> Path:
    path = make_gguf(place / "m.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"\xff" * 5))
    return path


def gguf_of_many_tensors(place: Path) -> Path:
    (place / "m.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") * 2)
    return place / "m.gguf"


def empty_gguf(place: Path) -> Path:
    (place / "m.gguf").touch()
    return place / "m.gguf"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def pickle_that_runs_code(place: Path) -> Path:
    torch.save({"w": torch.ones(2, 2), "bomb": Bomb(place / "exploded")}, place / "m.bin")
    return place / "m.bin"


def plain_pickle_that_runs_code(place: Path) -> Path:
    (place / "m.pt").write_bytes(pickle.dumps(Bomb(place / "exploded")))
    return place / "m.pt"


def truncated_pickle(place: Path) -> Path:
    torch.save({"w": torch.ones(20, 20)}, place / "m.pt")
    (place / "m.pt").write_bytes((place / "m.pt").read_bytes()[:-200])
    return place / "m.pt"


def pickle_of_something_else(place: Path) -> Path:
    torch.save([1, 2, 3], place / "m.pt")
    return place / "m.pt"


def pickle_of_an_expanded_tensor(place: Path) -> Path:
    torch.save({"w": torch.ones(1).expand(1 << 40, 16)}, place / "m.pt")
    return place / "m.pt"


def pickle_of_a_sparse_tensor(place: Path) -> Path:
    torch.save({"w": torch.eye(4).to_sparse()}, place / "m.pt")
    return place / "m.pt"


def pickle_of_a_tensor_without_data(place: Path) -> Path:
    torch.save({"w": torch.ones(4, 4, device="meta")}, place / "m.pt")
    return place / "m.pt"


def two_pickles_hold_one_tensor(place: Path) -> Path:
    for number in (1, 2):
        torch.save({"w": torch.ones(4, 4)}, place / f"pytorch_model-{number}.bin")
    return place


def legacy_pickle_of_exabytes(place: Path) -> Path:
    """A storage of 2^31 - 1 elements in a file of some hundred bytes."""
    torch.save({"w": torch.ones(100, 4)}, place / "m.pt", _use_new_zipfile_serialization=False)
    content = (place / "m.pt").read_bytes()
    (place / "m.pt").write_bytes(content.replace(b"M\x90\x01", b"J\xff\xff\xff\x7f", 1))
    return place / "m.pt"


def gguf_names_one_tensor_twice(place: Path) -> Path:
    """Under llama.cpp's name and under the Hugging Face name that it is given."""
    writer = GGUFWriter(place / "m.gguf", "llama")
    for name in ("output.weight", "lm_head.weight"):
        writer.add_tensor(name, make_weights(32, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place / "m.gguf"


ATTACKS: dict[Attack, str] = {
    pickle_of_an_expanded_tensor: "m.pt: corrupt checkpoint: tensor w has the shape",
    pickle_of_a_sparse_tensor: "m.pt: corrupt checkpoint: tensor w is sparse_coo",
    pickle_of_a_tensor_without_data: "m.pt: corrupt checkpoint: tensor w is meta",
    two_pickles_hold_one_tensor: "tensor w is also in pytorch_model-1.bin",
    legacy_pickle_of_exabytes: "a storage of 2147483647 elements in a file of",
    gguf_names_one_tensor_twice: "tensor lm_head.weight is also in m.gguf",
    missing_path: "cannot find the model",
    empty_directory: "empty: the directory is empty",
    directory_without_weights: "the directory holds no weights",
    text_file: "model.txt: is no checkpoint",
    empty_file: "m.safetensors: corrupt checkpoint: it has 0 bytes",
    truncated_data: "model.safetensors: corrupt checkpoint",
    header_longer_than_file: "declares a header of 5000 bytes",
    header_of_exabytes: "declares a header of 9223372036854775808 bytes",
    header_is_no_json: "its header is not valid JSON",
    header_is_a_list: "its header is not a JSON object",
    header_nests_too_deep: "its header is not valid JSON",
    key_occurs_twice: "a key occurs twice",
    overlapping_offsets: "m.safetensors: corrupt checkpoint",
    hole_between_tensors: "m.safetensors: corrupt checkpoint",
    offsets_beyond_the_file: "m.safetensors: corrupt checkpoint",
    negative_offsets: "m.safetensors: corrupt checkpoint",
    shape_larger_than_data: "m.safetensors: corrupt checkpoint",
    negative_shape: "m.safetensors: corrupt checkpoint",
    unknown_dtype: "m.safetensors: corrupt checkpoint",
    no_tensor: "m.safetensors: corrupt checkpoint: it holds no tensors",
    index_names_missing_shard: "1 of 2 shards that are missing: two.safetensors",
    index_points_elsewhere: "which is no file name",
    index_misplaces_a_tensor: "tensor v is not in two.safetensors",
    index_without_map: "it has no `weight_map`",
    index_is_no_json: "model.safetensors.index.json: corrupt checkpoint: is not valid JSON",
    two_files_hold_one_tensor: "tensor w is also in a.safetensors",
    config_is_no_json: "config.json: corrupt checkpoint: is not valid JSON",
    gguf_without_magic: "m.gguf: corrupt checkpoint: it is truncated or not GGUF",
    gguf_with_truncated_data: "m.gguf: corrupt checkpoint",
    gguf_with_truncated_header: "m.gguf: corrupt checkpoint",
    gguf_with_a_name_that_is_no_text: "m.gguf: corrupt checkpoint",
    gguf_of_many_tensors: "m.gguf: corrupt checkpoint",
    empty_gguf: "m.gguf: corrupt checkpoint",
    pickle_that_runs_code: "m.bin: corrupt checkpoint: it holds more than tensors",
    plain_pickle_that_runs_code: "m.pt: corrupt checkpoint: it holds more than tensors",
    truncated_pickle: "m.pt: corrupt checkpoint",
    pickle_of_something_else: "m.pt: corrupt checkpoint: it holds a list",
}


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_it_is_named_and_nothing_is_touched(
    attack: Attack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "input"
    place.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    model = attack(place)
    before = snapshot(tmp_path)
    assert run(["scan", str(model)]) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith("error: ")
    assert ATTACKS[attack] in streams.err
    assert "; " in streams.err or ": expected " in streams.err  # what is wrong, then what to do
    assert "Traceback" not in streams.err
    assert streams.out == ""
    assert snapshot(tmp_path) == before


def test_the_bomb_would_go_off_if_it_were_unpickled(tmp_path: Path) -> None:
    pickle.loads(plain_pickle_that_runs_code(tmp_path).read_bytes())
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("options", [["--include", "("], ["--device", "abacus"], ["--threads", "0"]])
def test_bad_options_are_named_and_nothing_is_written(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert run(["scan", str(model), *options]) == 2
    assert options[0] in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_an_existing_output_survives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    output = tmp_path / "s.jsonl"
    output.write_text("precious")
    assert run(["scan", str(model), "-o", str(output)]) == 2
    assert "s.jsonl exists already" in capsys.readouterr().err
    assert output.read_text() == "precious"


def test_bad_numbers_do_not_stop_a_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = llama_tensors()
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = np.nan
    tensors["model.layers.1.self_attn.q_proj.weight"][:] = 0
    model = write_model(tmp_path / "model", tensors)
    assert run(["scan", str(model), "-o", str(tmp_path / "s.jsonl"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    statuses = {row["status"]: row["num_units"] for row in summary["not_measured"]}
    assert statuses == {"non_finite": 1, "zero": 1, "vector": 5}


def test_half_a_character_in_the_configuration_is_named(tmp_path: Path) -> None:
    save_file({"w": np.eye(4, dtype=np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["\\ud800"]}', encoding="utf-8")
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)
