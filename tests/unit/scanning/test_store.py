from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oblong.errors import OutputWriteError
from oblong.records import Measures, Status
from oblong.scanning import store as store_module
from oblong.scanning.finding import Finding
from oblong.scanning.store import CHECKSUM_LENGTH, SECONDS_PER_DAY, SpectrumStore
from tests.scan_builders import make_unit


def make_key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_measures(kappa: float) -> Measures:
    measures = make_unit("a", kappa=kappa).measures
    assert measures is not None
    return measures


def make_finding(kappa: float = 7.0) -> Finding:
    return Finding(status=Status.OK, measures=make_measures(kappa))


@pytest.fixture
def store(tmp_path: Path) -> SpectrumStore:
    return SpectrumStore(tmp_path / "spectra")


def get_files(store: SpectrumStore) -> list[Path]:
    return sorted((store.directory / "v1").glob("*.jsonl"))


def test_what_was_put_comes_back_to_the_last_bit(store: SpectrumStore) -> None:
    finding = make_finding(0.1 + 0.2)
    zero = Finding(status=Status.ZERO)
    store.put({make_key(1): finding, make_key(2): zero})
    assert store.get(make_key(1)) == finding
    assert store.get(make_key(2)) == zero
    assert store.get(make_key(3)) is None
    assert SpectrumStore(store.directory).get(make_key(1)) == finding


def test_an_empty_place_has_no_entries_and_is_not_made_by_asking(store: SpectrumStore) -> None:
    assert store.get(make_key(1)) is None
    assert store.measure_usage().num_entries == 0
    assert store.clear().num_removed == 0
    assert not store.directory.exists()


@pytest.mark.parametrize("status", [Status.VECTOR, Status.NOT_CONVERGED, Status.OK, Status.TIED])
def test_only_what_the_bytes_decide_for_good_is_a_finding(status: Status) -> None:
    with pytest.raises(ValueError, match="no matrix has the status"):
        Finding(status=status)


def flip_a_digit(line: bytes) -> bytes:
    place = line.index(b'"kappa":') + len(b'"kappa":')
    return line[:place] + (b"8" if line[place : place + 1] != b"8" else b"9") + line[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip_a_digit,
    "torn": lambda line: line[: len(line) // 2],
    "only the key": lambda line: line[:65],
    "zeros": lambda line: b"\0" * len(line),
    "another's checksum": lambda line: line[:65] + b"0" * CHECKSUM_LENGTH + line[65 + CHECKSUM_LENGTH :],
    "binary": lambda line: line + b"\xff\xfe",
    "empty": lambda line: b"",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_not_there_and_can_be_written_again(store: SpectrumStore, name: str) -> None:
    key = make_key(1)
    store.put({key: make_finding()})
    (path,) = get_files(store)
    path.write_bytes(b"\n" + DAMAGES[name](path.read_bytes().strip()))
    assert store.get(key) is None
    store.put({key: make_finding(9.0)})
    assert store.get(key) == make_finding(9.0)
    assert store.measure_usage().num_entries == 1
    store.prune()
    assert store.measure_usage().num_invalid == 0
    assert store.get(key) == make_finding(9.0)


@pytest.mark.parametrize("change", [{"status": "tied"}, {"measures": {"kappa": 3}}, {"written": "x"}, {"more": 1}])
def test_a_line_of_another_version_is_not_trusted_though_its_checksum_is_right(
    store: SpectrumStore, change: dict[str, Any]
) -> None:
    key = make_key(1)
    store.put({key: make_finding()})
    (path,) = get_files(store)
    body = json.dumps(json.loads(path.read_bytes().split(b" ", 2)[2]) | change).encode()
    checksum = hashlib.sha256(key.encode() + b" " + body).hexdigest()[:CHECKSUM_LENGTH]
    path.write_bytes(f"{key} {checksum} ".encode() + body)
    assert store.get(key) is None
    assert store.measure_usage().num_invalid == 1


def put_many(directory: Path, first: int, barrier: Any) -> None:
    store = SpectrumStore(directory)
    barrier.wait()
    for number in range(first, first + 60, 3):
        # Neighbours write half of each other's entries again, and all of them the same file.
        store.put({f"abc{make_key(n)[3:]}": make_finding(n + 1.5) for n in range(number, number + 3)})


def test_writers_in_several_processes_lose_nothing(store: SpectrumStore) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    starts = (0, 30, 60, 90)
    workers = [context.Process(target=put_many, args=(store.directory, first, barrier)) for first in starts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    for number in range(150):
        assert store.get(f"abc{make_key(number)[3:]}") == make_finding(number + 1.5)
    assert store.measure_usage().num_invalid == 0


def test_a_full_disk_is_an_error_that_leaves_the_rest(store: SpectrumStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put({make_key(1): make_finding()})

    def write_half(write: Any, content: bytes) -> None:
        write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_write_all", write_half)
        with pytest.raises(OutputWriteError, match="No space left"):
            store.put({make_key(2): make_finding()})
    assert store.get(make_key(1)) == make_finding()
    assert store.get(make_key(2)) is None
    store.put({make_key(2): make_finding()})
    assert store.get(make_key(2)) == make_finding()


@pytest.fixture
def aged(store: SpectrumStore, monkeypatch: pytest.MonkeyPatch) -> SpectrumStore:
    """Ten entries, number n written n days ago."""
    now = time.time()
    for number in range(10):
        monkeypatch.setattr(time, "time", lambda age=number: now - age * SECONDS_PER_DAY)
        store.put({make_key(number): make_finding(number + 2.0)})
    monkeypatch.undo()
    return store


def get_numbers(store: SpectrumStore) -> list[int]:
    return [number for number in range(10) if store.get(make_key(number)) is not None]


def test_prune_by_age(aged: SpectrumStore) -> None:
    assert aged.prune(older_than_days=5.5).num_removed == 4
    assert get_numbers(aged) == [0, 1, 2, 3, 4, 5]


def test_prune_by_size_removes_the_oldest(aged: SpectrumStore) -> None:
    entry = aged.measure_usage().num_bytes // 10
    pruned = aged.prune(max_bytes=3 * entry + entry // 2)
    assert get_numbers(aged) == [0, 1, 2]
    assert (pruned.num_removed, pruned.num_kept) == (7, 3)
    assert aged.measure_usage().num_bytes <= 3 * entry + entry // 2


def test_prune_without_a_limit_keeps_every_entry_and_drops_what_was_repeated(aged: SpectrumStore) -> None:
    aged.put({make_key(3): make_finding(99.0)})
    assert aged.prune().num_removed == 0
    assert get_numbers(aged) == list(range(10))
    assert aged.get(make_key(3)) == make_finding(99.0)
    assert sum(path.read_bytes().count(b"written") for path in get_files(aged)) == 10


def test_clear_leaves_nothing(aged: SpectrumStore) -> None:
    assert aged.clear().num_removed == 10
    assert get_files(aged) == []


def test_a_lock_that_nobody_releases_is_named(store: SpectrumStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    store.put({make_key(1): make_finding()})
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    with FileLock(store.directory / "v1" / "lock"), pytest.raises(OutputWriteError, match="has held its lock"):
        store.put({make_key(2): make_finding()})
