"""What every builder of a speech set is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oblong.corpora.speech.building.engines import Engine
from oblong.corpora.speech.building.packages import Package, Report
from oblong.corpora.speech.usable import SkipReport


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """The means of building one set.

    Attributes:
        folder: of all sets; clips go below `clips/NAME`.
        packages: the Debian packages of the set, by name.
        engines: the speech synthesisers, by name; empty where none is needed.
        train_seconds: of synthetic speech per language for training.
        test_seconds: the same for the test.
        seed: of every choice.
        report: called with what is being done, how much of it is done, and the total.
        skips: counts what is left out.
    """

    folder: Path
    packages: Mapping[str, Package]
    engines: Mapping[str, Engine]
    train_seconds: float
    test_seconds: float
    seed: int
    report: Report
    skips: SkipReport = field(default_factory=SkipReport)
