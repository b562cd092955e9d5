"""The file of singular values: what was written is read, bit by bit, and what is damaged is named."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oblong.errors import OutputExistsError, RecordError
from oblong.records import PackedSpectrum, SpectraFile
from oblong.records.base import digest_bytes
from oblong.records.packed_spectrum import MAX_VALUES
from oblong.records.spectra import get_spectra_path, write_spectra
from tests import tolerances

VALUES = np.geomspace(8.0, 1e-3, 50)


def pack(values: np.ndarray | None = None) -> PackedSpectrum:
    return PackedSpectrum.pack(VALUES if values is None else values)


@given(st.lists(st.floats(min_value=0, allow_infinity=False), min_size=1, max_size=60))
def test_what_is_packed_comes_back_in_order_bit_by_bit(values: list[float]) -> None:
    packed = pack(np.array(values))
    assert packed.unpack().tolist() == sorted(values, reverse=True)
    assert packed.num_values == len(values)
    assert PackedSpectrum.model_validate(json.loads(packed.model_dump_json())) == packed


def test_the_digest_is_that_of_the_plain_values() -> None:
    assert pack().digest == digest_bytes(np.sort(VALUES)[::-1].astype("<f8").tobytes())


def test_the_spectrum_of_a_gaussian_matrix_becomes_smaller() -> None:
    values = np.linalg.svd(np.random.default_rng(0).standard_normal((400, 900)), compute_uv=False)
    assert len(pack(values).data) < tolerances.PACKED_BYTES_PER_VALUE * values.size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, 2.0]), "descending"),
        (np.array([1.0, -1.0]), "not negative"),
        (np.array([np.inf, 1.0]), "not finite"),
        (np.array([np.nan, 1.0]), "not finite"),
    ],
)
def test_values_that_are_no_spectrum_are_refused(values: np.ndarray, message: str) -> None:
    raw = values.astype("<f8").tobytes()
    planes = b"".join(raw[index::8] for index in range(8))
    packed = PackedSpectrum(num_values=values.size, digest=digest_bytes(raw), data=zlib.compress(planes))
    with pytest.raises(ValueError, match=message):
        packed.unpack()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_values": 51}, "not the one announced"),
        ({"num_values": 49}, "not the one announced"),
        ({"digest": "sha256:" + 64 * "0"}, "do not have their digest"),
        ({"data": b"no deflate"}, "cannot be decompressed"),
        ({"data": pack().data[:-1]}, "not the one announced"),
        ({"data": pack().data + b"x"}, "not the one announced"),
        ({"data": zlib.compress(bytes(1 << 24))}, "not the one announced"),
    ],
)
def test_damaged_data_are_refused_before_they_are_inflated(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack().model_copy(update=change).unpack()


@pytest.mark.parametrize("change", [{"num_values": 0}, {"num_values": MAX_VALUES + 1}, {"data": "###"}, {"digest": ""}])
def test_impossible_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PackedSpectrum.model_validate({**json.loads(pack().model_dump_json()), **change})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = get_spectra_path(tmp_path / "s.jsonl")
    write_spectra(path, [("a", pack()), ("ß[q]\n", pack(2 * VALUES)), ("c", pack(VALUES[:1]))], force=False)
    return path


def test_every_unit_is_found_in_any_order(path: Path) -> None:
    file = SpectraFile(path)
    assert path.name == "s.jsonl.spectra"
    assert list(file) == ["a", "ß[q]\n", "c"]
    assert file["c"].unpack().tolist() == [8.0]
    assert file["ß[q]\n"] == pack(2 * VALUES)
    assert "d" not in file
    assert file.get("d") is None


def test_the_file_can_be_read_as_the_documentation_says(path: Path) -> None:
    found = {}
    with path.open("rb") as file:
        assert json.loads(file.readline()) == {"kind": "oblong.spectra", "schema_version": 1}
        while line := file.readline():
            frame = json.loads(line)
            planes = np.frombuffer(zlib.decompress(file.read(frame["num_bytes"])), np.uint8)
            found[frame["unit"]] = planes.reshape(8, -1).T.copy().view("<f8")[:, 0]
            file.read(1)
    assert {unit: values.tolist() for unit, values in found.items()} == {
        unit: packed.unpack().tolist() for unit, packed in SpectraFile(path).items()
    }


def test_a_replaced_file_is_listed_again(path: Path) -> None:
    file = SpectraFile(path)
    assert "c" in file
    write_spectra(path, [("new", pack())], force=True)
    assert list(file) == ["new"]


def test_an_existing_file_is_kept(path: Path) -> None:
    with pytest.raises(OutputExistsError):
        write_spectra(path, [], force=False)


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new)


HEADER_BYTES = len('{"kind": "oblong.spectra", "schema_version": 1}\n')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "is damaged: a line is cut off"),
        (lambda content: content[:10], "a line is cut off"),
        (lambda content: content[:-1], "the values of c are cut off"),
        (lambda content: content[: HEADER_BYTES + 20], "a line is cut off"),
        (lambda content: content + b"\n", "is damaged"),
        (lambda content: content + b"{}\n", "is damaged"),
        (lambda content: content + content[HEADER_BYTES:], "names a unit twice"),
        (lambda content: content + b"[" * 200_000 + b"\n", "is damaged"),
        (lambda content: content + b"x" * 100, "a line is cut off"),
        (lambda content: b"\x00" * 100 + b"\n", "is damaged"),
        (lambda content: b"\xff" + content, "is damaged"),
        (replace(b"oblong.spectra", b"oblong.scan"), "is damaged"),
        (replace(b'"schema_version": 1', b'"schema_version": 2'), "is damaged"),
        (replace(b'"num_bytes": ', b'"num_bytes": -'), "is damaged"),
        (replace(b'"num_bytes": ', b'"num_bytes": 9'), "are cut off"),
        (replace(b'"num_bytes": ', b'"num_bytes": 9999999999999999999'), "are cut off"),
        (replace(b'"num_values": 5', b'"num_values": 1e400, "num_values": 5'), None),
        (replace(b'"num_values": 5', b'"num_values": 99999995'), "is damaged"),
        (replace(b'"unit": "c"', b'"unit": 3'), "is damaged"),
        (replace(b'"unit": "c"', b'"colour": "c"'), "is damaged"),
    ],
)
def test_a_damaged_file_is_named(path: Path, change: Callable[[bytes], bytes], message: str | None) -> None:
    path.write_bytes(change(path.read_bytes()))
    if message is None:
        assert list(SpectraFile(path))
        return
    with pytest.raises(RecordError, match=r"s\.jsonl\.spectra: .*scan again with --spectrum full --force") as caught:
        SpectraFile(path).get("a")
    assert message in str(caught.value)


def test_every_truncation_and_every_flipped_byte_is_noticed_or_harmless(path: Path) -> None:
    """Whatever happens to the bytes: another spectrum never passes for the one that a digest names."""
    content = path.read_bytes()
    packed = pack()
    mutants = [content[:length] for length in range(0, len(content), 7)]
    mutants += [content[:at] + bytes([content[at] ^ 0x15]) + content[at + 1 :] for at in range(0, len(content), 3)]
    for mutant in mutants:
        path.write_bytes(mutant)
        try:
            found = SpectraFile(path).get("a")
        except RecordError:
            continue
        if found is not None and found.digest == packed.digest:
            try:
                assert found.unpack().tolist() == packed.unpack().tolist()
            except ValueError:
                continue


def test_a_missing_file_says_how_the_two_belong_together(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no such file.*move and rename both together"):
        len(SpectraFile(tmp_path / "gone.spectra"))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="directory"):
        SpectraFile(tmp_path).get("a")
