"""Where features are kept: a folder for each encoder, shared by any number of processes."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oblong.checkpoints import cache_dir
from oblong.corpora.speech import Sound
from oblong.errors import DataError, OutputWriteError
from oblong.speech.features.shards import (
    PLACE_VARIABLE,
    Encoder,
    Entry,
    Frames,
    Shard,
    ShardWriter,
    digest_frames,
    iter_indices,
    measure_shard,
    read_shard,
    remove_shard,
)

OFF: Final = "off"
LAYOUT: Final = "v1"
FOLDER_LENGTH: Final = 16
SECONDS_PER_DAY: Final = 86_400


def locate_features() -> Path | None:
    """Where features are kept: `$OBLONG_FEATURE_CACHE`, None if it is `off`; else `features` in the cache directory."""
    override = os.environ.get(PLACE_VARIABLE)
    if override == OFF:
        return None
    return Path(override).expanduser() if override else cache_dir() / "features"


def open_feature_cache() -> FeatureCache | None:
    """The user's own cache; None where the environment turns it off."""
    place = locate_features()
    return None if place is None else FeatureCache(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureUsage:
    """How full a cache is. `num_damaged` counts index lines and shards that cannot be read."""

    num_clips: int
    num_encoders: int
    num_bytes: int
    audio_seconds: float
    num_damaged: int


class FeatureCache:
    """The features under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = folder / LAYOUT

    def open_encoder(self, encoder: Encoder) -> EncoderFeatures:
        """The features of one encoder.

        Raises:
            DataError: what is there cannot be read.
        """
        folder = self._root / encoder.digest[:FOLDER_LENGTH]
        try:
            shards = [shard for index in iter_indices(folder) if (shard := read_shard(index)) is not None]
        except OSError as error:
            raise DataError(
                f"{folder}: the feature cache cannot be read: {error}; name another folder in ${PLACE_VARIABLE}"
            ) from error
        return EncoderFeatures(folder, encoder, [shard for shard in shards if shard.encoder.digest == encoder.digest])

    def measure_usage(self) -> FeatureUsage:
        """Count clips and bytes."""
        indices = list(iter_indices(self._root))
        read = [read_shard(index) for index in indices]
        shards = [shard for shard in read if shard is not None]
        entries = {(shard.encoder.digest, entry.key): entry for shard in shards for entry in shard.entries}
        return FeatureUsage(
            num_clips=len(entries),
            num_encoders=len({digest for digest, _ in entries}),
            num_bytes=sum(map(measure_shard, indices)),
            audio_seconds=sum(entry.sound.seconds for entry in entries.values()),
            num_damaged=sum(shard.num_torn for shard in shards) + read.count(None),
        )

    def prune(self, *, older_than_days: float | None = None, max_bytes: int | None = None) -> int:
        """Remove whole shards: those last written too long ago, then the oldest until the rest fits.

        Returns:
            The bytes that are free now.
        """
        before = self.measure_usage().num_bytes
        oldest = 0.0 if older_than_days is None else time.time() - older_than_days * SECONDS_PER_DAY
        kept = 0
        for index in list(iter_indices(self._root)):
            kept += measure_shard(index)
            if index.stat().st_mtime < oldest or (max_bytes is not None and kept > max_bytes):
                remove_shard(index)
        return before - self.measure_usage().num_bytes

    def clear(self) -> int:
        """Remove everything; returns the bytes that are free now."""
        before = self.measure_usage().num_bytes
        shutil.rmtree(self._root, ignore_errors=True)
        return before


class EncoderFeatures:
    """The features of one encoder, as one process reads and adds to them.

    Attributes:
        num_damaged: features that were asked for, and there, but not whole.
    """

    def __init__(self, folder: Path, encoder: Encoder, shards: list[Shard]) -> None:
        self.num_damaged = 0
        self._folder = folder
        self._writer = ShardWriter(folder, encoder)
        # The youngest shard comes first: what was damaged once and computed again is not found damaged again.
        self._places: dict[str, list[tuple[Shard, Entry]]] = {}
        for shard in shards:
            for entry in shard.entries:
                self._places.setdefault(entry.key, []).append((shard, entry))

    def find(self, key: str) -> Sound | None:
        """What the recording under a key is like, if its features are there and whole."""
        for shard, entry in self._places.get(key, ()):
            frames = shard.map(entry)
            if frames is not None and digest_frames(frames) == entry.digest:
                self._places[key] = [(shard, entry)]
                return entry.sound
            self.num_damaged += 1
        return None

    def add(self, key: str, frames: Frames, sound: Sound) -> None:
        """Keep features.

        Raises:
            OutputWriteError: the disk is full, or the place cannot be written; what was kept earlier stays.
        """
        self._places[key] = [self._writer.append(key, frames, sound)]

    def map(self, key: str) -> Frames:
        """The features under a key that was found or added, mapped into memory; writing into them changes no file.

        Raises:
            OutputWriteError: they are gone.
        """
        shard, entry = self._places[key][0]
        frames = shard.map(entry)
        if frames is None:
            raise OutputWriteError(self._folder, "the cache was cleared while it was being filled; start again")
        return frames

    def close(self) -> None:
        """End writing."""
        self._writer.close()
