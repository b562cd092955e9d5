"""The Scan: every tensor of a checkpoint, measured or with the reason why not.

A Scan file is JSON Lines: one header, then one line per unit in checkpoint order, appended as it is made. While a
scan is running the lines live in `FILE.partial`; the finished file appears at once, whole, under its own name. With
`--spectrum full` the singular values lie in `FILE.spectra` (see spectra.py), and every line has the digest of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, overload

from pydantic import AfterValidator, Field, PrivateAttr

from oblong.errors import OutputExistsError, RecordError, SelectionError
from oblong.records.base import Part, Provenance, check_kind, digest_bytes, replace_on_success, validate
from oblong.records.notebook import render_units_html
from oblong.records.packed_spectrum import PackedSpectrum
from oblong.records.spectra import SpectraFile, fetch_values, get_spectra_path, write_spectra
from oblong.records.units import Units, describe_units

if TYPE_CHECKING:
    import pandas

    from oblong.records.packed_spectrum import FloatArray

SCAN_KIND: Final = "oblong.scan"
SCAN_SCHEMA_VERSION: Final = 1


class Status(StrEnum):
    """What became of a unit. Everything but OK and RANK_DEFICIENT has no measures."""

    OK = "ok"
    RANK_DEFICIENT = "rank_deficient"
    ZERO = "zero"
    NON_FINITE = "non_finite"
    VECTOR = "vector"
    EMPTY = "empty"
    NOT_FLOAT = "not_float"
    EXCLUDED = "excluded"
    TIED = "tied"
    NOT_CONVERGED = "not_converged"

    @property
    def explanation(self) -> str:
        """One sentence for tables and messages."""
        return STATUS_EXPLANATIONS[self]


STATUS_EXPLANATIONS: Final[Mapping[Status, str]] = {
    Status.OK: "measured",
    Status.RANK_DEFICIENT: "measured; some singular values are zero to the precision of the storage",
    Status.ZERO: "every element is zero, so there is no spectrum",
    Status.NON_FINITE: "holds NaN or infinite elements",
    Status.VECTOR: "a vector or a matrix with one row or column: its condition number is 1 by definition",
    Status.EMPTY: "has no elements",
    Status.NOT_FLOAT: "holds integers or booleans, not weights",
    Status.EXCLUDED: "left out by --include or --exclude",
    Status.TIED: "shares its storage with another tensor, which is measured instead",
    Status.NOT_CONVERGED: "no singular value decomposition converged, or the Frobenius norm is beyond float64",
}


class Measures(Part):
    """The spectrum of one matrix, m x n, of numerical rank r. All float64; entropies in nats.

    Source: Ludwig 2025, the equation named with each field; definitions in docs/reference/measures.md.
    """

    rank: int = Field(description="number of singular values above the cut-off max(m, n) * eps * s_1")
    sigma_max: float = Field(description="largest singular value s_1")
    sigma_min: float = Field(description="smallest non-zero singular value s_r")
    frobenius_norm: float
    kappa: float = Field(description="s_1 / s_r (Eq. 1)")
    kappa_full: float | None = Field(description="s_1 / s_min(m, n); null when the matrix is singular")
    kappa_error: float = Field(description="bound on the relative error of kappa from the arithmetic")
    log_volume: float = Field(description="sum of ln s_i over the r non-zero values (Eq. 6, 8)")
    log_volume_error: float | None = Field(
        default=None, description="estimate of how far log_volume, and the entropies with it, may be off, nats"
    )
    entropy: float = Field(description="differential entropy of W X, X ~ N(0, v I), on its image (Eq. 3-6)")
    max_entropy: float = Field(description="the entropy at kappa 1 with the same Frobenius norm (Theorem 1)")
    entropy_gap: float = Field(description="max_entropy - entropy >= 0, scale-invariant")
    mutual_information: float | None = Field(
        description="1/2 sum ln(1 + v s_i^2 / t): Y = W X + N(0, t I) (Eq. 7); needs --spectrum full"
    )
    stable_rank: float = Field(description="||W||_F^2 / s_1^2")
    participation_ratio: float = Field(description="(sum s_i^2)^2 / sum s_i^4")
    effective_rank: float | None = Field(description="exp of the entropy of s_i / sum s; needs --spectrum full")
    sigma_ratio_95: float | None = Field(description="s_1 over the 95 % quantile from the top; needs --spectrum full")
    null_kappa: float = Field(description="median kappa of a Gaussian matrix of this shape")
    null_quantile: float | None = Field(description="share of Gaussian matrices of this shape with smaller kappa")
    kappa_excess: float = Field(description="ln(kappa / null_kappa)")
    noise_floor: float = Field(description="spectral norm of the rounding error of the storage format")
    resolved: bool = Field(description="whether s_r stands above the noise floor")
    kappa_low: float = Field(description="smallest kappa of the unrounded weights that the stored ones allow")
    kappa_high: float | None = Field(description="largest such kappa; null when s_r may have been zero")
    method: str = Field(description="gram, mixed (float32, checked in float64), or svd where neither could be trusted")


HEAD_ROLES: Final = frozenset({"q_head", "k_head", "v_head", "o_head"})
"""Roles of units that show one head of a matrix which has a unit of its own: the same weights a second time."""


class Unit(Part):
    """One row: a tensor, or a named part of one (a fused q, an expert)."""

    name: str = Field(description="tensor name, with `[part]` appended for a part")
    tensor: str = Field(description="name of the tensor in the checkpoint, Hugging Face naming")
    part: str | None = None
    role: str = Field(description="q, k, v, o, gate, up, down, embedding, lm_head, router, pooler, norm, ...")
    layer: int | None = None
    shape: tuple[int, ...] = Field(description="as stored (part: of the part)")
    tensor_shape: tuple[int, ...] | None = Field(
        default=None, description="of the whole tensor as stored; null where the unit is the whole tensor"
    )
    matrix_shape: tuple[int, int] | None = Field(default=None, description="m x n as measured")
    dtype: str = Field(description="storage dtype: F32, BF16, F16, F8_E4M3, Q4_1, ...")
    num_parameters: int
    digest: str | None = Field(default=None, description="SHA-256 of the tensor's stored bytes")
    tied_to: str | None = None
    status: Status
    eligible: bool = Field(description="whether a Plan may choose it by default")
    reason: str | None = Field(default=None, description="why not eligible, or why not measured")
    note: str | None = None
    measures: Measures | None = None
    spectrum_digest: str | None = Field(
        default=None, description="SHA-256 of all singular values as little-endian float64; needs --spectrum full"
    )
    seconds: float = 0.0

    def key(self) -> tuple[str, str | None]:
        """Identity inside one Scan."""
        return (self.tensor, self.part)


class CheckpointFile(Part):
    """One file of a checkpoint."""

    name: str
    num_bytes: int


class CheckpointInfo(Part):
    """Which bytes were scanned. `layout_digest` hashes every tensor's name, dtype and shape, not the data."""

    format: str
    files: tuple[CheckpointFile, ...]
    layout_digest: str
    num_tensors: int
    num_parameters: int
    architecture: str | None = None


class ScanConfig(Part):
    """What can change the content of a Scan."""

    include: str | None = None
    exclude: str | None = None
    device: str = "cpu"
    spectrum: str = Field(default="extremes", pattern="^(extremes|full)$")
    precision: str = Field(default="auto", pattern="^(auto|float64)$")
    input_variance: float = Field(default=1.0, gt=0)
    noise_variance: float = Field(default=1.0, gt=0)
    heads: bool = False
    measure_version: int = 2


class ScanHeader(Part):
    """First line of a Scan file."""

    kind: Annotated[str, AfterValidator(check_kind(SCAN_KIND))] = SCAN_KIND
    schema_version: int = Field(default=SCAN_SCHEMA_VERSION, le=SCAN_SCHEMA_VERSION)
    model: str
    checkpoint: CheckpointInfo
    config: ScanConfig
    provenance: Provenance


class Scan(Part):
    """A finished Scan: `scan["name"]` and `scan[3]` are units, `scan[:5]` and `scan.filter(...)` are `Units`."""

    header: ScanHeader
    units: tuple[Unit, ...]
    _spectra: Mapping[str, PackedSpectrum] | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same. Singular values count by the digests in the units, not by where they lie."""
        if not isinstance(other, Scan):
            return NotImplemented
        return self.header == other.header and self.units == other.units

    def __len__(self) -> int:
        return len(self.units)

    def __iter__(self) -> Iterator[Unit]:  # type: ignore[override]  # rows, not pydantic's fields
        return iter(self.units)

    @cached_property
    def by_name(self) -> Mapping[str, Unit]:
        """Units by name."""
        return {unit.name: unit for unit in self.units}

    @overload
    def __getitem__(self, key: str | int) -> Unit: ...

    @overload
    def __getitem__(self, key: slice) -> Units: ...

    def __getitem__(self, key: str | int | slice) -> Unit | Units:
        return self.by_name[key] if isinstance(key, str) else Units(self.units)[key]

    def __contains__(self, key: object) -> bool:
        return key in self.by_name if isinstance(key, str) else key in self.units

    @property
    def measured(self) -> Units:
        """The units that have measures."""
        return Units(unit for unit in self.units if unit.measures is not None)

    @property
    def eligible(self) -> Units:
        """The units that a Plan may choose by default."""
        return Units(unit for unit in self.units if unit.eligible)

    def filter(
        self,
        *,
        role: str | Collection[str] | None = None,
        layer: int | Collection[int] | None = None,
        status: str | Collection[str] | None = None,
        name: str | None = None,
    ) -> Units:
        """The units that meet every condition given; see `Units.filter`."""
        return Units(self.units).filter(role=role, layer=layer, status=status, name=name)

    def singular_values(self, name: str) -> FloatArray:
        """All singular values of a unit's matrix; they are read from the file beside the Scan when asked for.

        Returns:
            Shape (min(m, n),), float64, descending. Of a rank-deficient matrix the first `measures.rank` are the
            non-zero ones, and the rest is rounding.

        Raises:
            KeyError: no such unit.
            SelectionError: the unit has no spectrum, or the Scan was not made with `--spectrum full`.
            RecordError: the file is missing, damaged, or that of another Scan.
        """
        unit = self.by_name[name]
        if unit.measures is None:
            raise SelectionError(f"{name} has no singular values: {unit.reason or unit.status.explanation}")
        if unit.spectrum_digest is None:
            raise SelectionError(f"{name}: {self._explain_no_values()}")
        num_values = min(unit.matrix_shape or (0,))
        return fetch_values(self._spectra, name, digest=unit.spectrum_digest, num_values=num_values)

    @property
    def has_singular_values(self) -> bool:
        """Whether they were kept and are still there; whether they are sound shows when they are read."""
        return self._spectra.path.exists() if isinstance(self._spectra, SpectraFile) else self._spectra is not None

    def _explain_no_values(self) -> str:
        if self.header.config.spectrum != "full":
            return "this Scan has only the extremes; scan again with --spectrum full (--force replaces this Scan)"
        return "an earlier version of oblong made this Scan and kept no singular values; scan again with --force"

    def with_spectra(self, spectra: Mapping[str, PackedSpectrum] | None) -> Self:
        """This Scan, taking its singular values from there."""
        scan = self.model_copy()
        scan._spectra = spectra
        return scan

    def digest(self) -> str:
        """SHA-256 of what was found: everything but timings and provenance, so that a resumed scan has the same.

        Fields at their defaults do not count; see `Record.digest`.
        """
        header = self.header.model_dump_json(exclude={"provenance"}, exclude_defaults=True)
        units = (unit.model_dump_json(exclude={"seconds"}, exclude_defaults=True) for unit in self.units)
        return digest_bytes("\n".join((header, *units)).encode())

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write the JSON Lines file atomically, and before it the file of singular values if there are any.

        Raises:
            OutputExistsError, OutputWriteError: see `Record.write`.
            RecordError: the singular values of this Scan were in a file that is gone or damaged.
        """
        if path.exists() and not force:
            raise OutputExistsError(path)
        companion = get_spectra_path(path)
        if self._spectra is not None:
            names = [unit.name for unit in self.units if unit.spectrum_digest is not None]
            spectra = self._spectra
            write_spectra(companion, ((name, spectra[name]) for name in names), force=force)
        write_lines(path, self.header, self.units, force=force)
        if self._spectra is None and force:
            companion.unlink(missing_ok=True)  # that of the Scan which was replaced

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a finished Scan; its singular values, if it has any, are looked for when they are asked for.

        Raises:
            RecordError: missing, empty, cut off, of another kind, or with an invalid line (which is named).
        """
        lines = list(read_lines(path))
        if not lines:
            raise RecordError(path, "is empty, not a Scan")
        header = validate(ScanHeader, lines[0], path)
        units = tuple(validate(Unit, line, f"{path} line {number}") for number, line in enumerate(lines[1:], 2))
        if len({unit.tensor for unit in units}) != header.checkpoint.num_tensors:
            raise RecordError(path, "is cut off: it names fewer tensors than the checkpoint has; scan again")
        spectra = SpectraFile(get_spectra_path(path)) if any(unit.spectrum_digest for unit in units) else None
        return cls(header=header, units=units).with_spectra(spectra)

    def to_rows(self) -> list[dict[str, Any]]:
        """Flat dictionaries, one per unit, measures inlined."""
        return Units(self.units).to_rows()

    def to_pandas(self) -> pandas.DataFrame:
        """One row per unit, one column per field and measure; see `Units.to_pandas`.

        Singular values are no columns, since their number differs from row to row: see `singular_values`.
        """
        return Units(self.units).to_pandas()

    def __repr__(self) -> str:
        return f"<Scan of {self.header.model}: {describe_units(self.units)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        info = self.header.checkpoint
        what = f"{self.header.model}: {info.architecture or info.format}, {info.num_tensors} tensors"
        return render_units_html(f"{what}, {info.num_parameters:,} parameters", self.units)


def write_lines(path: Path, header: ScanHeader, units: Sequence[Unit], *, force: bool) -> None:
    """Write the JSON Lines file of a Scan, and nothing beside it."""
    with replace_on_success(path, force=force) as file:
        file.write(render_line(header))
        file.writelines(render_line(unit) for unit in units)


def render_line(part: Part) -> str:
    """One strict JSON line."""
    return json.dumps(part.model_dump(mode="json"), allow_nan=False, ensure_ascii=False) + "\n"


def read_lines(path: Path) -> Iterator[Any]:
    """Parse a JSON Lines file; a bad line is named by its number."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise RecordError(path, f"line {number} is not valid JSON: {error}") from error
    except FileNotFoundError:
        raise RecordError(path, "no such file; `oblong scan MODEL -o FILE` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(path, f"cannot be read as text: {error}") from error


def summarise_roles(units: Sequence[Unit]) -> Mapping[str, tuple[Unit, ...]]:
    """Group units by role, roles in order of first appearance."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.role, []).append(unit)
    return {role: tuple(members) for role, members in groups.items()}
