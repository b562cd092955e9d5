"""`oblong speech fetch-data`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oblong.cli.main import run
from tests.sound_builders import encode_sound, write_deb


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder with the one package of the set `letters`."""
    document = b'<k><sound name="A" file="de/alpha/a.ogg"/><sound name="B" file="de/alpha/b.ogg"/></k>'
    root = "usr/share/klettres/de"
    ogg = encode_sound(tmp_path, "a.ogg", 0.6)
    files = {f"{root}/sounds.xml": document, f"{root}/alpha/a.ogg": ogg, f"{root}/alpha/b.ogg": ogg[:50]}
    write_deb(tmp_path / "given", "klettres-data", files)
    return tmp_path / "given"


def test_a_table_and_what_was_left_out(letters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "speech",
        "fetch-data",
        "--folder",
        str(tmp_path / "out"),
        "--only",
        "letters",
        "--packages",
        str(letters),
    ]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert "letters-test.jsonl" in printed.out
    assert "total" in printed.out
    assert str(tmp_path / "out" / "LICENCES") in printed.out
    assert "1 skipped: 1 corrupt" in " ".join(printed.err.split())
    assert run(command) == 0
    assert "letters was already there" in capsys.readouterr().err


def test_json_is_one_object(letters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "speech",
        "fetch-data",
        "--folder",
        str(tmp_path / "out"),
        "--only",
        "letters",
        "--packages",
        str(letters),
    ]
    assert run([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["skipped"] == {"letters": {"corrupt": 1}}
    assert content["manifests"][0]["num_utterances"] == 1


def test_the_default_folder_is_in_the_cache(letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBLONG_CACHE", str(tmp_path / "cache"))
    assert run(["speech", "fetch-data", "--only", "letters", "--packages", str(letters)]) == 0
    assert (tmp_path / "cache" / "speech" / "letters-test.jsonl").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "klingon"], "no speech set 'klingon'"),
        (["--only", "letters", "--packages", "/nowhere"], "/nowhere: no such folder"),
        (["--only", "synthetic-de", "--engine", "siri", "--packages", "."], "no speech engine 'siri'"),
        (["--only", "prompts-fr", "--packages", "."], "cannot get asterisk-core-sounds-fr"),
        (["--hours", "-1"], "greater than or equal to 0.01"),
    ],
)
def test_wrong_requests_exit_with_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["speech", "fetch-data", "--folder", str(tmp_path / "out"), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speech", "fetch-data", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("prompts-en", "synthetic-de", "dialogues-nl", "letters"))
