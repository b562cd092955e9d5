"""Records -> tables, charts and one HTML page. It sees only records, and it computes no result of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oblong.reporting.html import render_report, write_report

__all__ = ["render_report", "write_report"]


def __getattr__(name: str) -> Any:
    """Import the page, and with it the chart library, when it is first used: tables do without."""
    if name not in __all__:
        raise AttributeError(f"module 'oblong.reporting' has no attribute {name!r}")
    from oblong.reporting import html

    return getattr(html, name)
