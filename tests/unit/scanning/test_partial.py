from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblong.errors import OutputExistsError, OutputWriteError
from oblong.records import Scan
from oblong.scanning import ScanProgress, scan, scanner
from oblong.scanning.partial import get_partial_path, open_partial
from tests.checkpoint_builders import llama_tensors, make_weights, write_model

Stop = Callable[[ScanProgress], None]


class Interrupted(Exception):
    """Stands for whatever ends a scan early."""


def stop_after(number: int) -> Stop:
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


def interrupt(model: Path, output: Path, number: int, **options: Any) -> None:
    with pytest.raises(Interrupted):
        scan(str(model), output=output, on_progress=stop_after(number), **options)
    assert not output.exists()


def collect_messages(model: Path, output: Path, **options: Any) -> tuple[Scan, list[str]]:
    messages: list[str] = []
    result = scan(
        str(model), output=output, on_progress=lambda s: messages.append(s.message) if s.message else None, **options
    )
    return result, messages


@pytest.mark.parametrize("window", [1, 5000, 1 << 20])
@pytest.mark.parametrize("number", [1, 7, 19])
def test_a_resumed_scan_equals_an_uninterrupted_one(
    model: Path, output: Path, number: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "WINDOW_BYTES", window)
    interrupt(model, output, number)
    result, messages = collect_messages(model, output)
    assert messages == [f"resuming: {number} of {len(result)} units were finished before"]
    assert Scan.read(output) == result
    assert result.digest() == scan(str(model)).digest()


def test_it_may_be_interrupted_again_and_again(model: Path, output: Path) -> None:
    for number in (2, 5, 11):
        interrupt(model, output, number)
    assert collect_messages(model, output)[0].digest() == scan(str(model)).digest()


@pytest.mark.parametrize("torn", [b'{"name": "model.lay', b"\n", b"{}\n", b"\xff\xfe\n"])
def test_a_torn_last_line_is_cut_off(model: Path, output: Path, torn: bytes) -> None:
    interrupt(model, output, 4)
    with get_partial_path(output).open("ab") as file:
        file.write(torn)
    result, messages = collect_messages(model, output)
    assert "resuming: 4 of" in messages[0]
    assert Scan.read(output).digest() == result.digest() == scan(str(model)).digest()


@pytest.mark.parametrize("content", [b"", b"garbage", b"garbage\n", b'{"kind": "oblong.scan"}\n', b"\x00" * 100])
def test_a_broken_partial_is_begun_again(model: Path, output: Path, content: bytes) -> None:
    get_partial_path(output).write_bytes(content)
    collect_messages(model, output)
    assert Scan.read(output).digest() == scan(str(model)).digest()


def test_a_scan_that_was_killed_before_its_first_unit_just_starts(model: Path, output: Path) -> None:
    interrupt(model, output, 1)
    partial = get_partial_path(output)
    partial.write_bytes(partial.read_bytes().splitlines(keepends=True)[0])
    result, messages = collect_messages(model, output)
    assert messages == []
    assert Scan.read(output).digest() == result.digest()


def test_another_configuration_starts_afresh_and_says_so(model: Path, output: Path) -> None:
    interrupt(model, output, 5)
    result, messages = collect_messages(model, output, exclude="mlp")
    assert messages == ["s.jsonl.partial is of another scan or model; starting afresh"]
    assert result.digest() == scan(str(model), exclude="mlp").digest()


def test_fresh_ignores_what_was_finished(model: Path, output: Path) -> None:
    interrupt(model, output, 5)
    assert collect_messages(model, output, fresh=True)[1] == []


def test_weights_that_changed_in_between_are_noticed(model: Path, output: Path) -> None:
    interrupt(model, output, 12)
    tensors = llama_tensors()
    changed = [unit["name"] for unit in read_lines(get_partial_path(output))[1:]][6]
    tensors[changed] = make_weights(*tensors[changed].shape, seed=999)
    write_model(model, tensors)
    result, messages = collect_messages(model, output)
    assert messages == [f"{changed} has changed since the scan was interrupted; starting afresh"]
    assert result.digest() == scan(str(model)).digest()


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_on_the_disk_as_soon_as_it_is_made(model: Path, output: Path) -> None:
    seen: list[int] = []

    def count(state: ScanProgress) -> None:
        seen.append(len(read_lines(get_partial_path(output))) - 1)

    result = scan(str(model), output=output, on_progress=count)
    assert seen == list(range(1, len(result) + 1))


def test_a_finished_output_is_never_overwritten_unasked(model: Path, output: Path) -> None:
    output.write_text("precious")
    with pytest.raises(OutputExistsError, match="--force"):
        scan(str(model), output=output)
    assert output.read_text() == "precious"


def test_with_force_the_old_stays_until_the_new_is_whole(model: Path, output: Path) -> None:
    output.write_text("precious")
    with pytest.raises(Interrupted):
        scan(str(model), output=output, force=True, on_progress=stop_after(9))
    assert output.read_text() == "precious"
    result = scan(str(model), output=output, force=True)
    assert Scan.read(output) == result


def test_only_one_scan_at_a_time_writes_an_output(model: Path, output: Path) -> None:
    header = scan(str(model)).header
    with open_partial(output, header), pytest.raises(OutputWriteError, match="another scan is writing it"):
        scan(str(model), output=output)


def test_a_place_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputWriteError, match=r"file/s\.jsonl"):
        scan(str(model), output=tmp_path / "file" / "s.jsonl")
