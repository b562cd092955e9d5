"""What was found out about one matrix: all that a cache has to remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import model_validator

from oblong.records import Measures, PackedSpectrum, Part, Status, Unit

# What a matrix' bytes decide for good. A decomposition that did not converge is tried again.
LASTING: Final = (Status.OK, Status.RANK_DEFICIENT, Status.ZERO, Status.NON_FINITE)
MEASURED: Final = (Status.OK, Status.RANK_DEFICIENT)


class Finding(Part):
    """The status of a matrix and, where it has a spectrum, its measures; its singular values if they were asked for."""

    status: Status
    measures: Measures | None = None
    spectrum: PackedSpectrum | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> Finding:
        if self.status not in LASTING or (self.measures is not None) is not (self.status in MEASURED):
            raise ValueError(f"no matrix has the status {self.status} and measures {self.measures}")
        if self.spectrum is not None and self.measures is None:
            raise ValueError(f"no matrix has singular values and the status {self.status}")
        return self

    def has_sound_spectrum(self) -> bool:
        """Whether singular values are there, if the matrix has any, and are those that their digest names."""
        if self.measures is None:
            return True
        try:
            return self.spectrum is not None and self.spectrum.unpack().size > 0
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnit:
    """A unit of a Scan and, with `--spectrum full`, the singular values that go beside the Scan."""

    unit: Unit
    spectrum: PackedSpectrum | None = None
