"""What was found out about one matrix: all that a cache has to remember."""

from __future__ import annotations

from typing import Final

from pydantic import model_validator

from oblong.records import Measures, Part, Status

# What a matrix' bytes decide for good. A decomposition that did not converge is tried again.
LASTING: Final = (Status.OK, Status.RANK_DEFICIENT, Status.ZERO, Status.NON_FINITE)
MEASURED: Final = (Status.OK, Status.RANK_DEFICIENT)


class Finding(Part):
    """The status of a matrix and, where it has a spectrum, its measures."""

    status: Status
    measures: Measures | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> Finding:
        if self.status not in LASTING or (self.measures is not None) is not (self.status in MEASURED):
            raise ValueError(f"no matrix has the status {self.status} and measures {self.measures}")
        return self
