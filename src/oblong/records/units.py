"""Some units of a Scan, in order: to narrow down, to count and to hand to pandas."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, overload

from oblong.errors import MissingExtraError, SelectionError
from oblong.records.notebook import render_units_html

if TYPE_CHECKING:
    import pandas

    from oblong.records.scan import Unit

# Columns that have no value where nothing was measured, and would become floats or objects for that.
_NULLABLE: Final = {"layer": "Int64", "rank": "Int64", "resolved": "boolean"}


class Units(tuple["Unit", ...]):
    """A tuple of units that can be narrowed down further.

    It is no Scan: it has no header and cannot be written, because a Scan names every tensor of its checkpoint.
    """

    __slots__ = ()

    def filter(
        self,
        *,
        role: str | Collection[str] | None = None,
        layer: int | Collection[int] | None = None,
        status: str | Collection[str] | None = None,
        name: str | None = None,
    ) -> Units:
        """Keep the units that meet every condition given.

        Args:
            role: one role or several, such as `"q"` or `("q", "k", "v")`.
            layer: one layer or several, such as `3` or `range(8)`; units outside the layers meet none.
            status: one status or several, such as `"ok"` or `Status.RANK_DEFICIENT`.
            name: regular expression that the unit's name matches somewhere.

        Returns:
            The units that are left, in their order; none is a valid answer.

        Raises:
            SelectionError: a role that none of these units has, no such status, or an invalid regular expression.
        """
        # scan.py imports this module, so it can only be asked at run time.
        from oblong.records.scan import Status

        roles = _check("role", role, [unit.role for unit in self])
        statuses = _check("status", status, [*Status])
        layers = {layer} if isinstance(layer, int) else layer
        pattern = _compile(name)
        return Units(
            unit
            for unit in self
            if (roles is None or unit.role in roles)
            and (layers is None or unit.layer in layers)
            and (statuses is None or unit.status.value in statuses)
            and (pattern is None or pattern.search(unit.name))
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Flat dictionaries, one per unit, measures inlined."""
        return [
            {**unit.model_dump(exclude={"measures"}), **(unit.measures.model_dump() if unit.measures else {})}
            for unit in self
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """One row per unit, one column per field and measure (NaN or NA where there is none); `name` is the index.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("to_pandas()", "pandas") from error
        from oblong.records.scan import Measures, Unit

        columns = [name for name in Unit.model_fields if name != "measures"]
        frame = pandas.DataFrame(self.to_rows(), columns=[*columns, *Measures.model_fields])
        floats = [name for name, field in Measures.model_fields.items() if field.annotation in (float, float | None)]
        dtypes = {**dict.fromkeys(floats, "float64"), **_NULLABLE}
        frame["status"] = [unit.status.value for unit in self]
        return frame.astype(dtypes).set_index("name")

    @overload
    def __getitem__(self, key: SupportsIndex) -> Unit: ...

    @overload
    def __getitem__(self, key: slice) -> Units: ...

    def __getitem__(self, key: SupportsIndex | slice) -> Unit | Units:
        found = super().__getitem__(key)
        return Units(found) if isinstance(found, tuple) else found

    def __repr__(self) -> str:
        return f"<Units: {describe_units(self)}>"

    def _repr_html_(self) -> str:
        return render_units_html(f"{len(self)} units", self)


def describe_units(units: Collection[Unit]) -> str:
    """Counts and the range of kappa, in one line."""
    kappas = [unit.measures.kappa for unit in units if unit.measures is not None]
    counts = f"{len(units)} units, {len(kappas)} measured, {sum(unit.eligible for unit in units)} eligible"
    return f"{counts}; kappa {min(kappas):.3g} to {max(kappas):.3g}" if kappas else counts


def _check(field: str, wanted: str | Collection[str] | None, known: Sequence[str]) -> frozenset[str] | None:
    """The wanted values as a set, after making sure that each of them is known."""
    if wanted is None:
        return None
    values = frozenset({str(wanted)} if isinstance(wanted, str) else map(str, wanted))
    if unknown := sorted(values - set(known)):
        there_are = ", ".join(dict.fromkeys(known)) or "no units at all"
        raise SelectionError(f"{field}={unknown[0]!r} is not among these units'; choose from: {there_are}")
    return values


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SelectionError(f"name={pattern!r} is not a valid regular expression: {error}") from error
