"""L2-SP: half the squared distance from the starting point as a penalty.

    L = L_new + (alpha / 2) sum_i (theta_i - theta*_i)^2

Source: Li, Grandvalet and Davoine 2018, "Explicit inductive bias for transfer learning", Eq. 2 (their second term, beta
on new layers, has no counterpart: nothing is new here). Weight decay pulls to zero; this pulls to the base.
"""

from __future__ import annotations

from typing import ClassVar

from oblong.methods.quadratic_penalty import QuadraticPenalty


class L2Sp(QuadraticPenalty):
    """Pulls every trained weight back to the base's with the same strength."""

    has_importance: ClassVar[bool] = False
