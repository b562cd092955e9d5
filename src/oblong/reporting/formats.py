"""Numbers as the report writes them, the same in every table, sentence and figure."""

from __future__ import annotations

from typing import Final

from oblong.records import Interval

NOTHING: Final = "-"
SMALLEST_P_VALUE: Final = 1e-4  # the t approximation is not good to smaller ones


def format_interval(interval: Interval | None) -> str:
    """`+0.0109 [+0.0027, +0.0191]`, nats per token."""
    if interval is None:
        return NOTHING
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def format_parameters(count: int) -> str:
    """A parameter count such as 10.6 M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {suffix}"
    return str(count)


def format_share(share: float | None) -> str:
    """A share such as 7.9 %."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def format_p_value(p_value: float) -> str:
    """`p = 0.031`, `p < 0.0001`."""
    if p_value < SMALLEST_P_VALUE:
        return f"p < {SMALLEST_P_VALUE:.4f}"
    return f"p = {p_value:.2g}" if p_value < 0.995 else "p = 1"


def format_rate(rate: float) -> str:
    """A learning rate such as 2e-04, in the shortest form that no other one has."""
    return next(text for digits in range(17) if float(text := f"{rate:.{digits}e}") == rate)


def format_yes(value: bool | None) -> str:
    """`yes`, `no`, or a dash where it is not known."""
    return NOTHING if value is None else "yes" if value else "no"


def format_megabytes(num_bytes: int) -> str:
    """Memory in decimal megabytes."""
    return f"{num_bytes / 1e6:,.0f} MB"


def format_duration(seconds: float) -> str:
    """A duration such as 42 s or 3 min 20 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


def format_kappa(kappa: float) -> str:
    """A condition number to four digits: 5.172, 17,106, 2.3e+07."""
    if 1000 <= kappa < 1e6:
        return f"{kappa:,.0f}"
    return f"{kappa:.4g}" if kappa < 1000 else f"{kappa:.2g}"
