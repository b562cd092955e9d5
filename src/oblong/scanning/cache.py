"""What a scan asks of the cache: known findings before, new ones after; a cache that fails costs only its help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oblong.checkpoints import Checkpoint
from oblong.errors import OutputWriteError
from oblong.records import ScanConfig
from oblong.scanning.cache_key import KeyMaker, describe_arithmetic
from oblong.scanning.finding import Finding
from oblong.scanning.store import SpectrumStore, locate_store
from oblong.scanning.worklist import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What the cache says about the matrices of one load, by unit name: every key, and the findings that it has."""

    keys: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[str, Finding] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to compute."""
        return len(self.findings) == len(self.keys)


class SpectrumCache:
    """The cache as one scan uses it. `warnings` tells what went wrong with it, once for reading and for writing.

    With `full` a finding without its singular values, or with damaged ones, is none.
    """

    def __init__(self, store: SpectrumStore, keys: KeyMaker, *, full: bool = False) -> None:
        self.warnings: list[str] = []
        self._store = store
        self._keys = keys
        self._full = full
        self._can_read = True
        self._can_write = True

    def recall(self, jobs: Iterable[Job], digest: str) -> Recall:
        """Look up the matrices of one tensor.

        Args:
            jobs: those that need a spectrum.
            digest: SHA-256 of the stored bytes of the whole tensor.
        """
        keys = {job.unit.name: self._keys.make(job, digest) for job in jobs}
        found = {name: finding for name, key in keys.items() if (finding := self._get(key)) is not None}
        return Recall(keys=keys, findings=found)

    def remember(self, findings: Mapping[str, Finding]) -> None:
        """Keep new findings, by key."""
        if not findings or not self._can_write:
            return
        try:
            self._store.put(findings)
        except OutputWriteError as error:
            self._can_write = False
            self.warnings.append(f"{error}; the scan goes on, but the cache will not know what it finds")

    def take_warnings(self) -> list[str]:
        """The warnings since the last call."""
        warnings, self.warnings = self.warnings, []
        return warnings

    def _get(self, key: str) -> Finding | None:
        try:
            finding = self._store.get(key) if self._can_read else None
        except OSError as error:
            self._can_read = False
            self.warnings.append(f"cannot read the cache in {self._store.directory}: {error}; measuring everything")
            return None
        is_enough = finding is None or not self._full or finding.has_sound_spectrum()
        return finding if is_enough else None


def open_cache(checkpoint: Checkpoint, config: ScanConfig, num_threads: int) -> SpectrumCache | None:
    """The cache for a scan; None where the environment turns it off."""
    place = locate_store()
    if place is None:
        return None
    arithmetic = describe_arithmetic(config.device, num_threads)
    return SpectrumCache(SpectrumStore(place), KeyMaker(checkpoint, config, arithmetic), full=config.spectrum == "full")
