"""Small pieces of safe markup for the page; whatever comes from a record is escaped here or by the template."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from oblong.reporting.theme import SHAPES

MINUS_BEFORE_NUMBER: Final = re.compile(r"(?<![\w\-])-(?=\d)")
MINUS_SIGN: Final = "\N{MINUS SIGN}"

# The symbols of the charts as paths in a box from -6 to 6, for the tables beside them.
SHAPE_PATHS: Final[Mapping[str, str]] = {
    "circle": "M0-5a5 5 0 1 0 .01 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "triangle-up": "M0-5L5.5 4.5h-11z",
    "triangle-down": "M0 5L5.5-4.5h-11z",
    "triangle-right": "M5 0L-4.5 5.5v-11z",
    "cross": "M-1.8-5.4h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6z",
    "diamond": "M0-5.8L4.4 0 0 5.8-4.4 0z",
}
assert set(SHAPES) <= set(SHAPE_PATHS)


def true_minus(text: str) -> str:
    """Hyphens that stand for a minus become minus signs, which are as wide as the plus; names keep theirs."""
    return MINUS_BEFORE_NUMBER.sub(MINUS_SIGN, text)


def mark_interval(text: str, decided: bool) -> Markup:
    """`mean [low, high]` with the interval set back and, where it excludes zero, the mean in bold."""
    mean, bracket, interval = true_minus(text).partition(" [")
    opening = Markup('<span class="decided">{}</span>' if decided else "{}").format(mean)
    return opening + (Markup(' <span class="interval">[{}</span>').format(interval) if bracket else "")


def to_script_json(data: Any) -> Markup:
    """JSON that can stand inside a <script> element: no `<`, so nothing in it can close the element."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return Markup(text.replace("<", "\\u003c"))


def content_security_policy(*scripts: str) -> str:
    """Allow exactly these inline scripts and no request of any kind."""
    hashes = " ".join(f"'sha256-{_hash_script(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash_script(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
