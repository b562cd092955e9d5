"""Decoding: every format to 16 kHz mono float32, and every bad file to an AudioError that names it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from oblong.corpora.speech import SAMPLE_RATE, decode_audio, load_audio, measure_seconds
from oblong.errors import AudioError, MissingExtraError
from tests.sound_builders import make_tone, write_compressed, write_sound


def find_pitch(samples: np.ndarray) -> float:
    """The strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / samples.size


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".aiff", ".mp3", ".g722"])
def test_every_format_gives_the_same_tone(tmp_path: Path, suffix: str) -> None:
    path, tone = tmp_path / f"tone{suffix}", make_tone(1.0)
    if suffix in (".mp3", ".g722"):
        write_compressed(path, tone, suffix[1:])
    else:
        write_sound(path, tone)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # MP3 pads to whole frames of 72 ms and has a delay of one
    assert samples.size == pytest.approx(SAMPLE_RATE, abs=0.15 * SAMPLE_RATE if suffix == ".mp3" else 400)
    middle = samples[4000:12000]
    assert find_pitch(middle) == pytest.approx(440, abs=4)
    assert float(np.sqrt(np.mean(middle**2))) == pytest.approx(0.5 / np.sqrt(2), rel=0.08)
    assert measure_seconds(path) == pytest.approx(samples.size / SAMPLE_RATE, abs=0.03)


def test_16_khz_wav_is_unchanged(tmp_path: Path) -> None:
    tone = make_tone(0.3)
    path = write_sound(tmp_path / "a.wav", tone, subtype="FLOAT")
    assert np.array_equal(load_audio(path), tone)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    samples = load_audio(write_sound(tmp_path / "a.wav", make_tone(0.5, rate), rate))
    assert abs(samples.size - SAMPLE_RATE // 2) <= 1
    assert find_pitch(samples) == pytest.approx(440, abs=4)


def test_what_16_khz_cannot_hold_is_removed(tmp_path: Path) -> None:
    samples = load_audio(write_sound(tmp_path / "a.wav", make_tone(0.5, 48_000, hertz=12_000), 48_000))
    assert float(np.abs(samples[800:-800]).max()) < 1e-3


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left = make_tone(0.5, 48_000)
    path = write_sound(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 48_000)
    mono = write_sound(tmp_path / "b.wav", make_tone(0.5, 48_000, level=0.25), 48_000)
    assert np.allclose(load_audio(path), load_audio(mono), atol=1e-4)


def test_silence_is_sound(tmp_path: Path) -> None:
    samples = load_audio(write_sound(tmp_path / "a.wav", make_tone(0.5, level=0)))
    assert samples.size == SAMPLE_RATE // 2
    assert not samples.any()


def test_bytes_and_file_give_the_same(tmp_path: Path) -> None:
    for path in (
        write_sound(tmp_path / "a.flac", make_tone(0.2)),
        write_compressed(tmp_path / "a.g722", make_tone(0.2), "g722"),
    ):
        assert np.array_equal(decode_audio(path.read_bytes(), Path(path.name)), load_audio(path))


def test_a_wrong_suffix_does_not_mislead(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", make_tone(0.2))
    named = path.rename(tmp_path / "a.mp3")
    assert load_audio(named).size == 3200


def make_bad_file(folder: Path, what: str) -> Path:
    path = folder / f"{what.replace(' ', '-')}.wav"
    if what == "missing":
        return path
    if what == "folder":
        path.mkdir()
        return path
    if what == "nan":
        return write_sound(path, np.full(1600, np.nan, np.float32), subtype="FLOAT")
    if what == "no samples":
        return write_sound(path, np.zeros(0, np.float32))
    whole = write_sound(path, make_tone(0.5)).read_bytes()
    path.write_bytes(
        {"no bytes": b"", "noise": bytes(range(256)) * 9, "header only": whole[:40], "cut": whole[:-5000]}[what]
    )
    return path


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("missing", "missing", "no such file"),
        ("folder", "missing", "is not a file"),
        ("no bytes", "empty", "the file is empty"),
        ("no samples", "empty", "holds no samples"),
        ("noise", "corrupt", "cannot be decoded"),
        ("header only", "corrupt", "cannot be decoded"),
        ("cut", "corrupt", "is cut off: 11000 of 16000 bytes"),
        ("nan", "corrupt", "not finite"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, what: str, kind: str, message: str) -> None:
    path = make_bad_file(tmp_path, what)
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)
    assert caught.value.kind == kind
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".m4a", ".xyz"])
def test_noise_under_any_name_is_corrupt(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert caught.value.kind in ("corrupt", "empty")


def test_a_cut_flac_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize(("module", "suffix"), [("soundfile", ".wav"), ("av", ".mp3"), ("soxr", ".wav")])
def test_a_missing_decoder_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, suffix: str
) -> None:
    path = write_sound(tmp_path / "a.wav", make_tone(0.2, 8_000), 8_000).rename(tmp_path / f"b{suffix}")
    if suffix == ".mp3":
        path.write_bytes(b"ID3" + bytes(100))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oblong\[speech\]'"):
        load_audio(path)


def test_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    """What programs write into a pipe: sizes of 4 GiB that mean "until the end"."""
    data = bytearray(write_sound(tmp_path / "a.wav", make_tone(0.5)).read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(data)
    assert load_audio(tmp_path / "a.wav").size == SAMPLE_RATE // 2
