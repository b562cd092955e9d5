"""An estimate with its interval."""

from __future__ import annotations

from pydantic import Field

from oblong.records.base import Part


class Interval(Part):
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95
    num_resamples: int
    p_value: float | None = Field(
        default=None, ge=0, le=1, description="of a difference: two-sided, of its being zero; not adjusted"
    )

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0
