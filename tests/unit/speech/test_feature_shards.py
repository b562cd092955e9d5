"""Processes that write features at once and are killed at any moment leave only whole entries."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oblong.corpora.speech import Sound
from oblong.speech.features.cache import FeatureCache
from oblong.speech.features.shards import Encoder

ENCODER = Encoder(digest="ab" * 32, width=64, description={"name": "test"})
DEADLINE_SECONDS = 60


def make_frames(number: int) -> NDArray[np.int16]:
    """What stands under the key of a number."""
    rng = np.random.default_rng(number)
    return rng.integers(-(2**15), 2**15, (1 + number % 300, ENCODER.width), dtype=np.int16)


def write_without_end(folder: Path, offset: int) -> None:
    """Add clips with every second number until somebody kills the process; the first hundred belong to both."""
    kept = FeatureCache(folder).open_encoder(ENCODER)
    for number in [*range(100), *range(100 + offset, 10**6, 2)]:
        kept.add(str(number), make_frames(number), Sound(num_samples=number + 1, peak=0.5))


def test_what_killed_writers_leave_is_whole(tmp_path: Path) -> None:
    command = (
        "import sys; from pathlib import Path; from tests.unit.speech.test_feature_shards import write_without_end; "
        "write_without_end(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", command, str(tmp_path), str(offset)], cwd=Path(__file__).parents[3])
        for offset in (0, 1)
    ]
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while sum(len(index.read_bytes()) > 50_000 for index in tmp_path.rglob("*.jsonl")) < len(writers):
            assert time.monotonic() < deadline, "the writers do not write"
            time.sleep(0.02)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    cache = FeatureCache(tmp_path)
    kept = cache.open_encoder(ENCODER)
    found = {number: sound for number in range(10_000) if (sound := kept.find(str(number))) is not None}
    assert kept.num_damaged == 0
    assert cache.measure_usage().num_clips >= len(found) > 200
    for number, sound in found.items():
        assert sound.num_samples == number + 1
        assert np.array_equal(kept.map(str(number)), make_frames(number))
