"""`--spectrum full`: every singular value is kept beside the Scan, whichever way the scan was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

from oblong.errors import OutputExistsError, OutputWriteError, RecordError, SelectionError
from oblong.records import Scan
from oblong.records.spectra import get_spectra_path
from oblong.scanning import ScanProgress, partial_spectra, scan, scanner
from oblong.scanning.partial import PartialScan, get_partial_path
from oblong.scanning.store import PLACE_VARIABLE
from tests import tolerances
from tests.checkpoint_builders import llama_tensors, make_weights, write_model

Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"


class Interrupted(Exception):
    """Stands for whatever ends a scan early."""


def stop_after(number: int) -> Callable[[ScanProgress], None]:
    def callback(state: ScanProgress) -> None:
        if state.done == number and state.message is None:
            raise Interrupted

    return callback


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "s.jsonl"


def list_values(found: Scan) -> dict[str, list[float]]:
    return {unit.name: found.singular_values(unit.name).tolist() for unit in found.measured}


def test_they_are_those_of_an_independent_decomposition(model: Path, output: Path) -> None:
    result = scan(str(model), output=output, spectrum="full")
    tensors = load_file(model / "model.safetensors")
    assert len(result.measured) > 10
    for unit in result.measured:
        values = result.singular_values(unit.name)
        expected = np.linalg.svd(tensors[unit.name].astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(values, expected, rtol=tolerances.FULL_SPECTRUM)
        assert values.dtype == np.float64
        assert unit.measures is not None
        assert values[0] == pytest.approx(unit.measures.sigma_max, rel=tolerances.KAPPA_AGAINST_SVD)
        assert values[-1] == pytest.approx(unit.measures.sigma_min, rel=tolerances.KAPPA_AGAINST_SVD)


def test_in_memory_and_from_the_file_they_are_the_same(model: Path, output: Path) -> None:
    in_memory = scan(str(model), spectrum="full")
    written = scan(str(model), output=output, spectrum="full")
    read = Scan.read(output)
    assert read == written
    assert in_memory.digest() == read.digest()
    assert list_values(in_memory) == list_values(written) == list_values(read)
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "s.jsonl", "s.jsonl.spectra"]


def test_a_rank_deficient_matrix_has_all_of_them(tmp_path: Path) -> None:
    low = (make_weights(40, 5, seed=1) @ make_weights(5, 60, seed=2)).astype(np.float64)
    low[:, 5:] = low[:, :1]
    model = write_model(tmp_path / "model", {"model.layers.0.mlp.up_proj.weight": low})
    result = scan(str(model), spectrum="full")
    unit = result[0]
    assert unit.measures is not None
    assert unit.measures.rank < 40
    values = result.singular_values(unit.name)
    assert values.shape == (40,)
    assert values[unit.measures.rank - 1] == unit.measures.sigma_min
    assert values[unit.measures.rank] < 1e-12 * values[0]


def test_heads_have_theirs(model: Path) -> None:
    result = scan(str(model), spectrum="full", heads=True)
    assert result.singular_values(f"{Q}[head.1]").shape == (4,)


def test_a_live_module_has_them(output: Path) -> None:
    result = scan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(32, 10)), output=output, spectrum="full")
    assert list_values(Scan.read(output)) == list_values(result)
    assert result.singular_values("0.weight").shape == (8,)


def test_what_has_none_says_why(model: Path, output: Path) -> None:
    full = scan(str(model), output=output, spectrum="full")
    with pytest.raises(SelectionError, match=r"model\.norm\.weight has no singular values: "):
        full.singular_values(NORM)
    with pytest.raises(KeyError):
        full.singular_values("nothing")
    with pytest.raises(SelectionError, match="only the extremes; scan again with --spectrum full"):
        scan(str(model)).singular_values(Q)


def test_a_full_scan_of_an_earlier_version_has_none(model: Path, output: Path) -> None:
    full = scan(str(model), output=output, spectrum="full")
    old = Scan(header=full.header, units=tuple(u.model_copy(update={"spectrum_digest": None}) for u in full.units))
    with pytest.raises(SelectionError, match=r"earlier version .* scan again with --force"):
        old.singular_values(Q)


def test_both_files_move_together(model: Path, output: Path, tmp_path: Path) -> None:
    expected = list_values(scan(str(model), output=output, spectrum="full"))
    moved = tmp_path / "elsewhere" / "renamed.jsonl"
    moved.parent.mkdir()
    output.rename(moved)
    with pytest.raises(RecordError, match=r"renamed\.jsonl\.spectra: no such file; .*move and rename both together"):
        Scan.read(moved).singular_values(Q)
    get_spectra_path(output).rename(get_spectra_path(moved))
    assert list_values(Scan.read(moved)) == expected


def test_the_values_of_another_scan_are_refused(model: Path, output: Path, tmp_path: Path) -> None:
    scan(str(model), output=output, spectrum="full")
    tensors = llama_tensors()
    tensors[Q] = make_weights(*tensors[Q].shape, seed=77)
    other = tmp_path / "other.jsonl"
    scan(str(write_model(tmp_path / "other", tensors)), output=other, spectrum="full")
    shutil.copy(get_spectra_path(other), get_spectra_path(output))
    found = Scan.read(output)
    with pytest.raises(RecordError, match=rf"does not hold the singular values that the Scan names for {Q}"):
        found.singular_values(Q)
    assert found.singular_values("model.layers.1.self_attn.q_proj.weight").size == 16


def test_writing_a_scan_takes_them_along(model: Path, output: Path, tmp_path: Path) -> None:
    expected = list_values(scan(str(model), output=output, spectrum="full"))
    copy = tmp_path / "copy.jsonl"
    Scan.read(output).write(copy)
    assert list_values(Scan.read(copy)) == expected
    Scan.read(copy).write(copy, force=True)
    scan(str(model), spectrum="full").write(tmp_path / "third.jsonl")
    assert list_values(Scan.read(copy)) == list_values(Scan.read(tmp_path / "third.jsonl")) == expected
    scan(str(model)).write(copy, force=True)
    assert not get_spectra_path(copy).exists()


def test_a_scan_that_lost_them_is_not_copied_silently(model: Path, output: Path, tmp_path: Path) -> None:
    scan(str(model), output=output, spectrum="full")
    get_spectra_path(output).unlink()
    with pytest.raises(RecordError, match="no such file"):
        Scan.read(output).write(tmp_path / "copy.jsonl")
    assert not (tmp_path / "copy.jsonl").exists()


@pytest.mark.parametrize("window", [1, 5000])
@pytest.mark.parametrize("number", [1, 7, 19])
def test_an_interrupted_scan_goes_on(
    model: Path, output: Path, number: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "WINDOW_BYTES", window)
    with pytest.raises(Interrupted):
        scan(str(model), output=output, spectrum="full", on_progress=stop_after(number))
    assert get_partial_path(get_spectra_path(output)).exists()
    result, messages = go_on(model, output)
    assert messages == [f"resuming: {number} of {len(result)} units were finished before"]
    assert list_values(Scan.read(output)) == list_values(scan(str(model), spectrum="full"))
    assert not get_partial_path(get_spectra_path(output)).exists()


def go_on(model: Path, output: Path, spectrum: str = "full") -> tuple[Scan, list[str]]:
    messages: list[str] = []
    result = scan(
        str(model),
        output=output,
        spectrum=spectrum,
        on_progress=lambda state: messages.append(state.message) if state.message else None,
    )
    return result, messages


@pytest.mark.parametrize(
    ("damage", "num_kept"),
    [
        (lambda content: content[:-1], 4),
        (lambda content: content[:-40], 4),
        (lambda content: content + b'{"unit": "tor', 5),
        (lambda content: content + content[-100:], 5),
        (lambda content: content[:20], 0),
        (lambda content: b"", 0),
        (lambda content: content[:200] + b"?" + content[201:], 0),
    ],
)
def test_units_whose_values_are_lost_are_measured_again(
    model: Path, output: Path, damage: Callable[[bytes], bytes], num_kept: int
) -> None:
    with pytest.raises(Interrupted):
        scan(str(model), output=output, spectrum="full", on_progress=stop_after(5))
    lines = [json.loads(line) for line in get_partial_path(output).read_text().splitlines()[1:]]
    assert all(line["measures"] for line in lines[-2:]), "the last frame belongs to the last line"
    partial = get_partial_path(get_spectra_path(output))
    partial.write_bytes(damage(partial.read_bytes()))
    _, messages = go_on(model, output)
    if num_kept < 5:
        assert messages[0] == f"the singular values of {5 - num_kept} finished units are lost; measuring them again"
    assert [message.split()[1] for message in messages if "resuming" in message] == (
        [str(num_kept)] if num_kept else []
    )
    assert list_values(Scan.read(output)) == list_values(scan(str(model), spectrum="full"))


def test_a_kill_between_values_and_line_costs_that_unit(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = 0
    write = PartialScan._write

    def die_at_the_ninth(self: PartialScan, line: str) -> None:
        nonlocal appended
        appended += 1
        if appended == 9:
            raise Interrupted
        write(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(PartialScan, "_write", die_at_the_ninth)
        with pytest.raises(Interrupted):
            scan(str(model), output=output, spectrum="full")
    _, messages = go_on(model, output)
    assert "resuming: 7 of" in messages[0]
    assert list_values(Scan.read(output)) == list_values(scan(str(model), spectrum="full"))


def test_a_kill_between_the_two_renames_costs_nothing(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = partial_spectra.PartialSpectra.finish

    def finish_and_die(self: partial_spectra.PartialSpectra, target: Path) -> None:
        finish(self, target)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(partial_spectra.PartialSpectra, "finish", finish_and_die)
        with pytest.raises(Interrupted):
            scan(str(model), output=output, spectrum="full")
    assert get_spectra_path(output).exists()
    result, messages = go_on(model, output)
    assert messages == [f"resuming: {len(result)} of {len(result)} units were finished before"]
    assert list_values(Scan.read(output)) == list_values(scan(str(model), spectrum="full"))


def test_full_after_extremes_and_back(model: Path, output: Path) -> None:
    scan(str(model), output=output)
    with pytest.raises(OutputExistsError):
        scan(str(model), output=output, spectrum="full")
    scan(str(model), output=output, spectrum="full", force=True)
    assert Scan.read(output).singular_values(Q).size == 16
    scan(str(model), output=output, force=True)
    assert not get_spectra_path(output).exists()


def test_an_interrupted_full_scan_leaves_nothing_to_one_of_the_extremes(model: Path, output: Path) -> None:
    with pytest.raises(Interrupted):
        scan(str(model), output=output, spectrum="full", on_progress=stop_after(3))
    go_on(model, output, "extremes")
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "s.jsonl"]


def test_values_that_lie_there_are_not_replaced_unasked(model: Path, output: Path) -> None:
    get_spectra_path(output).write_text("precious")
    with pytest.raises(OutputExistsError, match=r"s\.jsonl\.spectra exists already"):
        scan(str(model), output=output, spectrum="full")
    assert get_spectra_path(output).read_text() == "precious"


def test_old_values_stay_until_the_new_are_whole(model: Path, output: Path) -> None:
    expected = list_values(scan(str(model), output=output, spectrum="full"))
    with pytest.raises(Interrupted):
        scan(str(model), output=output, spectrum="full", force=True, on_progress=stop_after(5))
    assert list_values(Scan.read(output)) == expected


def test_a_full_disk_keeps_what_was_finished(model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(unit: str, packed: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(partial_spectra, "render_frame", refuse)
        with pytest.raises(OutputWriteError, match="the disk is full; what was finished is kept"):
            scan(str(model), output=output, spectrum="full")
    go_on(model, output)
    assert Scan.read(output).singular_values(Q).size == 16


def test_known_units_bring_theirs_from_the_cache(
    model: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "cache"))
    extremes = scan(str(model))
    assert extremes.measured[0].spectrum_digest is None
    first = scan(str(model), spectrum="full")
    result, messages = go_on(model, output)
    assert messages == [f"{len(result.measured)} of {len(result)} units were known from the cache of earlier scans"]
    assert result.digest() == first.digest()
    assert list_values(Scan.read(output)) == list_values(first)
    assert scan(str(model)).digest() == extremes.digest()


@pytest.mark.parametrize("field", ["spectrum", "data"])
def test_a_finding_without_sound_values_is_computed_again(
    model: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """As another version may have left it, with a right checksum."""
    from oblong.scanning.finding import Finding
    from oblong.scanning.store import SpectrumStore

    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "cache"))
    put = SpectrumStore.put

    def damage(self: SpectrumStore, findings: dict[str, Finding]) -> None:
        spoilt = {}
        for key, finding in findings.items():
            bad = (
                None
                if field == "spectrum" or finding.spectrum is None
                else finding.spectrum.model_copy(update={"data": b"bad"})
            )
            spoilt[key] = finding.model_copy(update={"spectrum": bad})
        put(self, spoilt)

    with monkeypatch.context() as patch:
        patch.setattr(SpectrumStore, "put", damage)
        scan(str(model), spectrum="full")
    result, messages = go_on(model, output)
    assert messages == []
    assert list_values(result) == list_values(scan(str(model), spectrum="full", cache=False))
