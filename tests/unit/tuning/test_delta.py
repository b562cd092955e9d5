"""Delta checkpoints: strict, atomic, exact to apply and to undo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oblong.checkpoints.delta import apply_delta, digest_tensor, read_delta, undo_delta, write_delta
from oblong.errors import (
    CorruptCheckpointError,
    OutputExistsError,
    OutputWriteError,
    PlanMismatchError,
    RecordError,
    VerificationError,
)
from oblong.records import DeltaManifest, Provenance
from oblong.tuning.prove import describe_change

Tensors = Mapping[str, torch.Tensor]


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(4, 3, generator=generator).to(torch.bfloat16) for name in ("a", "b", "c")}


@pytest.fixture
def tuned(base: Tensors) -> dict[str, torch.Tensor]:
    return {name: base[name] * 2 for name in ("a", "b")}


def make_manifest(base: Tensors, tuned: Tensors) -> DeltaManifest:
    return DeltaManifest(
        model="m",
        plan_digest="sha256:0",
        changed={name: describe_change(base[name], tensor) for name, tensor in tuned.items()},
        frozen={},
        provenance=Provenance.here(),
    )


def test_read_is_what_was_written(base: Tensors, tuned: Tensors, tmp_path: Path) -> None:
    manifest = make_manifest(base, tuned)
    write_delta(tmp_path / "delta", tuned, manifest)
    delta = read_delta(tmp_path / "delta")
    assert delta.manifest == manifest
    assert all(torch.equal(delta.tensors[name], tensor) for name, tensor in tuned.items())
    assert [path.name for path in tmp_path.iterdir()] == ["delta"]


def test_apply_then_undo_restores_every_bit(base: dict[str, torch.Tensor], tuned: Tensors, tmp_path: Path) -> None:
    write_delta(tmp_path / "delta", tuned, make_manifest(base, tuned))
    model = {name: tensor.clone() for name, tensor in base.items()}
    originals = apply_delta(model, read_delta(tmp_path / "delta"))
    assert all(torch.equal(model[name], tensor) for name, tensor in tuned.items())
    assert torch.equal(model["c"], base["c"])
    undo_delta(model, originals)
    assert {name: digest_tensor(tensor) for name, tensor in model.items()} == {
        name: digest_tensor(tensor) for name, tensor in base.items()
    }


@pytest.mark.parametrize("misfit", ["absent", "shape", "weights"])
def test_another_model_is_refused_and_untouched(
    base: dict[str, torch.Tensor], tuned: Tensors, tmp_path: Path, misfit: str
) -> None:
    write_delta(tmp_path / "delta", tuned, make_manifest(base, tuned))
    other = {name: tensor.clone() for name, tensor in base.items()}
    if misfit == "absent":
        del other["b"]
    else:
        other["b"] = other["b"][:2] if misfit == "shape" else other["b"] + 1
    before = {name: tensor.clone() for name, tensor in other.items()}
    with pytest.raises(PlanMismatchError, match="b: the model"):
        apply_delta(other, read_delta(tmp_path / "delta"))
    assert all(torch.equal(other[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("tampering", ["value", "missing", "extra", "shape", "dtype"])
def test_tensors_that_the_manifest_does_not_describe_are_refused(
    base: Tensors, tuned: Tensors, tmp_path: Path, tampering: str
) -> None:
    directory = tmp_path / "delta"
    write_delta(directory, tuned, make_manifest(base, tuned))
    tensors = load_file(directory / "delta.safetensors")
    if tampering == "missing":
        del tensors["a"]
    elif tampering == "extra":
        tensors["z"] = torch.zeros(1)
    else:
        changes = {"value": tensors["a"] + 1, "shape": tensors["a"][:1], "dtype": tensors["a"].float()}
        tensors["a"] = changes[tampering].contiguous()
    save_file(tensors, directory / "delta.safetensors")
    with pytest.raises(VerificationError, match=r"^verification failed, 1 problem.*\n  [az]:"):
        read_delta(directory)


def test_missing_or_broken_files_are_named(base: Tensors, tuned: Tensors, tmp_path: Path) -> None:
    directory = tmp_path / "delta"
    with pytest.raises(RecordError, match=r"manifest\.json"):
        read_delta(directory)
    write_delta(directory, tuned, make_manifest(base, tuned))
    (directory / "delta.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"delta\.safetensors"):
        read_delta(directory)
    (directory / "delta.safetensors").unlink()
    with pytest.raises(CorruptCheckpointError, match="no such file"):
        read_delta(directory)


def test_existing_output_is_not_overwritten(base: Tensors, tuned: Tensors, tmp_path: Path) -> None:
    (tmp_path / "delta").mkdir()
    (tmp_path / "delta" / "precious").write_text("mine")
    with pytest.raises(OutputExistsError):
        write_delta(tmp_path / "delta", tuned, make_manifest(base, tuned))
    assert (tmp_path / "delta" / "precious").read_text() == "mine"


def test_full_disk_leaves_nothing_behind(
    base: Tensors, tuned: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oblong.checkpoints.delta.save_file", fail)
    with pytest.raises(OutputWriteError, match="disk is full"):
        write_delta(tmp_path / "delta", tuned, make_manifest(base, tuned))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.empty(0, 2), torch.arange(6).reshape(2, 3).t()])
def test_digest_is_that_of_the_c_ordered_bytes(tensor: torch.Tensor) -> None:
    import hashlib

    expected = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
    assert digest_tensor(tensor) == f"sha256:{expected}"
