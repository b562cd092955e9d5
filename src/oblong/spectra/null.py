"""What kappa a matrix of this shape has by chance: the law of Gaussian matrices with independent entries.

kappa is mostly decided by shape. For clearly rectangular matrices it lies at the Marchenko-Pastur edge
(1 + sqrt b) / (1 - sqrt b), b = min / max of the shape, and fluctuates little; for square ones it is of the order of n,
with the heavy tail of Edelman's law, P(kappa / n <= x) -> exp(-2/x - 2/x^2). Between the two no closed form is known.
So the law is tabulated (null_table.json, made by benchmarks/make_null_table.py), in a standardised variable whose law
varies little:

    z = (ln kappa - centre) / scale,   centre = ln((sqrt q + sqrt p) / (sqrt q - sqrt(p - 1)))   for q >= p,

with the scale of the Tracy-Widom fluctuations of both ends, kept finite for q = p. For fixed q - p the law of z has a
limit (hard edge: Edelman's family), for fixed p / q another one (soft edge), so that shapes beyond the table take its
last entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from oblong.spectra.spectrum import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NullModel:
    """The law of kappa for Gaussian matrices of one shape.

    Attributes:
        median_kappa: Median.
        levels: Shape (k,), ascending probabilities.
        kappas: Shape (k,), the quantiles at those levels; empty for vectors, whose kappa is always 1.
    """

    median_kappa: float
    levels: FloatArray
    kappas: FloatArray

    def quantile(self, kappa: float) -> float | None:
        """Share of Gaussian matrices of this shape with a smaller kappa; None for vectors.

        Monte Carlo, good to about 0.01. It ends at the first and last level of the table, 0.001 and 0.999: these mean
        "at most" and "at least".
        """
        if self.kappas.size == 0:
            return None
        return float(np.interp(math.log(kappa), np.log(self.kappas), self.levels))


@cache
def compute_null(shape: tuple[int, int]) -> NullModel:
    """Law of kappa for Gaussian matrices.

    Args:
        shape: (m, n).

    Returns:
        Its median and quantiles.

    Source: Edelman 1988, Eigenvalues and condition numbers of random matrices; Johnstone 2001 and Feldheim and Sodin
    2010 for the two soft edges; Rudelson and Vershynin 2009 for sqrt q - sqrt(p - 1).
    """
    p, q = min(shape), max(shape)
    if p < 2:
        return NullModel(median_kappa=1.0, levels=np.empty(0), kappas=np.empty(0))
    table = load_table()
    centre, scale = compute_standardisation(p, q)
    kappas = np.maximum(np.exp(centre + scale * table.interpolate(p, q)), 1.0)
    median = float(np.interp(0.5, table.levels, kappas))
    return NullModel(median_kappa=median, levels=table.levels, kappas=kappas)


def compute_standardisation(p: int, q: int) -> tuple[float, float]:
    """Centre and scale of ln kappa for p x q Gaussian matrices, q >= p >= 2.

    s_1^2 fluctuates by (sqrt q + sqrt p) (1/sqrt p + 1/sqrt q)^(1/3), s_p^2 by the same with minus signs, each times a
    Tracy-Widom variable; divided by twice the squares they are the fluctuations of ln s. p - 1 and q + 1 in the
    differences keep them from vanishing for square matrices.
    """
    top = math.sqrt(q) + math.sqrt(p)
    bottom = math.sqrt(q) - math.sqrt(p - 1)
    top_scale = (1 / math.sqrt(p) + 1 / math.sqrt(q)) ** (1 / 3) / (2 * top)
    bottom_scale = (1 / math.sqrt(p) - 1 / math.sqrt(q + 1)) ** (1 / 3) / (2 * bottom)
    return math.log(top / bottom), math.hypot(top_scale, bottom_scale)


def compute_marchenko_pastur_kappa(shape: tuple[int, int]) -> float | None:
    """Edge (1 + sqrt b) / (1 - sqrt b), b = min / max of the shape; None for square matrices, which have none."""
    b = min(shape) / max(shape)
    return None if b == 1 else (1 + math.sqrt(b)) / (1 - math.sqrt(b))


@dataclass(frozen=True, slots=True, kw_only=True)
class NullTable:
    """Quantiles of z.

    Attributes:
        short_sides: Shape (i,), ascending p.
        differences: Shape (j,), ascending q - p.
        levels: Shape (k,), probabilities.
        quantiles: Shape (i, j, k).
    """

    short_sides: FloatArray
    differences: FloatArray
    levels: FloatArray
    quantiles: FloatArray

    def interpolate(self, p: int, q: int) -> FloatArray:
        """Quantiles of z for one shape, shape (k,): bilinear in ln p and ln(1 + q - p), constant beyond the table."""
        i, s = _locate(np.log(self.short_sides), math.log(p))
        j, t = _locate(np.log1p(self.differences), math.log1p(q - p))
        square = self.quantiles[i : i + 2, j : j + 2]
        result: FloatArray = np.einsum("a,b,abk->k", np.array([1 - s, s]), np.array([1 - t, t]), square)
        return result


def _locate(grid: FloatArray, value: float) -> tuple[int, float]:
    """Cell of an ascending grid and the position in it, in [0, 1]."""
    index = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, grid.size - 2))
    position = (value - grid[index]) / (grid[index + 1] - grid[index])
    return index, float(np.clip(position, 0.0, 1.0))


@cache
def load_table() -> NullTable:
    """The table that ships with the package."""
    data = json.loads(resources.files("oblong.spectra").joinpath("null_table.json").read_text(encoding="utf-8"))
    return NullTable(**{key: _as_array(data[key]) for key in NullTable.__slots__})


def _as_array(values: Sequence[object]) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
