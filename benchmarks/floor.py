"""What a route through the float64 Gram matrix cannot go below: one `syrk` and one `potrf` of the short side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oblong.spectra.lapack import add_gram, factorise

PANEL_ELEMENTS = 4 << 20


def run_floor(matrix: NDArray[np.floating[Any]]) -> None:
    """The Gram matrix and its Cholesky factor, without a float64 copy of a large matrix."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    rows = max(PANEL_ELEMENTS // tall.shape[1], 1)
    gram = np.empty((tall.shape[1],) * 2)
    for start in range(0, tall.shape[0], rows):
        add_gram(tall[start : start + rows].astype(np.float64), gram, is_first=start == 0)
    factorise(gram)
