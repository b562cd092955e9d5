"""What there is to do, from headers alone: a job per unit, gathered into loads (one read) and batches (one window)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from oblong.checkpoints import (
    Checkpoint,
    MatrixPart,
    TensorInfo,
    classify_role,
    explain_ineligible,
    find_layer,
    split_into_heads,
    split_into_matrices,
)
from oblong.checkpoints.config import get_quantisation
from oblong.checkpoints.head_views import ROLES as HEAD_ROLES
from oblong.checkpoints.scales import SCALED_DTYPES
from oblong.errors import SelectionError
from oblong.records import ScanConfig, Status, Unit

NO_HEADS: Final = "its heads are not settled by the configuration"

# Statuses that the header decides and that no value can change.
NOT_DECODED: Final = (Status.NOT_FLOAT, Status.EXCLUDED, Status.TIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One unit to be made. `unit` is complete but for digest, measures and what the values may change."""

    unit: Unit
    tensor: TensorInfo
    matrix: MatrixPart

    @property
    def needs_spectrum(self) -> bool:
        """Whether singular values must be computed."""
        return self.unit.status is Status.OK

    @property
    def needs_values(self) -> bool:
        """Whether the tensor must be decoded."""
        return self.unit.status not in NOT_DECODED

    @property
    def work(self) -> float:
        """Estimated floating-point operations: the Gram matrix and its factor, or just reading."""
        rows, columns = self.matrix.matrix_shape
        short, long = min(rows, columns), max(rows, columns)
        return short * short * (long + short / 3) if self.needs_spectrum else float(short * long)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One read: a tensor, or one expert of a stack, and the jobs whose matrices it holds."""

    tensor: TensorInfo
    jobs: tuple[Job, ...]

    @property
    def decoded_bytes(self) -> int:
        """Memory that the values will take."""
        if not any(job.needs_values for job in self.jobs):
            return 0
        return self.tensor.num_parameters * (8 if self.tensor.dtype == "F64" else 4)


Batch = tuple[Load, ...]


def list_jobs(checkpoint: Checkpoint, config: ScanConfig) -> tuple[Job, ...]:
    """One job per unit, in checkpoint order; every tensor has at least one.

    Raises:
        SelectionError: an invalid regular expression, or filters that leave nothing.
    """
    is_wanted = compile_filter(config.include, config.exclude)
    jobs = tuple(
        job for tensor in checkpoint.tensors for job in _make_jobs(checkpoint, tensor, is_wanted, heads=config.heads)
    )
    if all(job.unit.status is Status.EXCLUDED for job in jobs):
        first = checkpoint.tensors[0].name
        filters = {"--include": config.include, "--exclude": config.exclude}
        given = " and ".join(f"{option} {pattern!r}" for option, pattern in filters.items() if pattern is not None)
        reason = f"left none of the {len(jobs)} tensors; change it to match names such as {first!r}"
        raise SelectionError(f"{given} {reason}")
    return jobs


def compile_filter(include: str | None, exclude: str | None) -> Callable[[str], bool]:
    """A test of unit names: matched (anywhere) by `include` if there is one, and not by `exclude`.

    Raises:
        SelectionError: an invalid regular expression.
    """
    wanted = _compile("--include", include)
    unwanted = _compile("--exclude", exclude)
    return lambda name: (not wanted or bool(wanted.search(name))) and not (unwanted and unwanted.search(name))


def _compile(option: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SelectionError(f"{option} {pattern!r} is not a valid regular expression: {error}") from error


def _make_jobs(
    checkpoint: Checkpoint, tensor: TensorInfo, is_wanted: Callable[[str], bool], *, heads: bool
) -> Iterator[Job]:
    named = tensor.role or classify_role(tensor.name, len(tensor.shape))
    role = "quantisation" if tensor.companion_of else named
    matrices = split_into_matrices(tensor.name, tensor.shape, role, checkpoint.config)
    for matrix in _add_heads(tensor.name, matrices, checkpoint.config) if heads else matrices:
        name = tensor.name if matrix.part is None else f"{tensor.name}[{matrix.part}]"
        status = _decide_status(checkpoint, tensor, matrix) if is_wanted(name) else Status.EXCLUDED
        reason = _explain(checkpoint, tensor, matrix, status)
        unit = Unit(
            name=name,
            tensor=tensor.name,
            part=matrix.part,
            role=matrix.role,
            layer=find_layer(tensor.name),
            shape=matrix.shape,
            tensor_shape=None if matrix.part is None else tensor.shape,
            matrix_shape=matrix.matrix_shape if status is Status.OK else None,
            dtype=tensor.dtype,
            num_parameters=math.prod(matrix.shape),
            tied_to=checkpoint.ties.get(tensor.name),
            status=status,
            eligible=reason is None,
            reason=reason,
            note=_join_notes(checkpoint, tensor, matrix),
        )
        yield Job(unit=unit, tensor=tensor, matrix=matrix)


def _add_heads(name: str, matrices: Sequence[MatrixPart], config: Mapping[str, Any]) -> Iterator[MatrixPart]:
    """Every matrix, each followed by its heads."""
    for matrix in matrices:
        views = split_into_heads(name, matrix, config)
        is_unknown = matrix.role in HEAD_ROLES and not views
        yield replace(matrix, note=_join(matrix.note, NO_HEADS)) if is_unknown else matrix
        yield from views


def _decide_status(checkpoint: Checkpoint, tensor: TensorInfo, matrix: MatrixPart) -> Status:
    """What the header says; OK stands for `to be measured`."""
    if not tensor.is_decodable:
        return Status.NOT_FLOAT
    if tensor.num_parameters == 0:
        return Status.EMPTY
    if tensor.name in checkpoint.ties:
        return Status.TIED
    return Status.VECTOR if min(matrix.matrix_shape) == 1 else Status.OK


def _explain(checkpoint: Checkpoint, tensor: TensorInfo, matrix: MatrixPart, status: Status) -> str | None:
    """Why a unit is not eligible; None when it is."""
    if tensor.companion_of is not None:
        return f"part of the quantised {tensor.companion_of}, which is measured instead"
    if status is Status.NOT_FLOAT and matrix.role != "buffer":
        return _explain_not_float(tensor, checkpoint.config)
    if status is Status.TIED:
        return f"shares its weights with {checkpoint.ties[tensor.name]}, which is measured instead"
    if matrix.cut_from is not None:
        return "one head of a matrix that has a row of its own"
    return explain_ineligible(matrix.role) or (None if status is Status.OK else status.explanation)


def _explain_not_float(tensor: TensorInfo, config: Mapping[str, Any]) -> str:
    method = get_quantisation(config).get("quant_method")
    if method:
        return (
            f"{tensor.dtype} data packed by {method}: scan the original model, whose plan also applies to this one "
            "(rounding would decide the result here)"
        )
    return f"stored as {tensor.dtype}, which holds no weights that oblong can decode"


def _join_notes(checkpoint: Checkpoint, tensor: TensorInfo, matrix: MatrixPart) -> str | None:
    scale = checkpoint.find_scale(tensor)
    copies = [copy for copy, original in checkpoint.ties.items() if original == tensor.name]
    notes = (
        tensor.note,
        matrix.note,
        f"multiplied by its scales in {scale.name}" if scale else None,
        f"dequantised from {tensor.stored_name}" if tensor.packing else None,
        f"also serves as {', '.join(copies)}" if copies else None,
    )
    return _join(*notes)


def _join(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None


def list_loads(jobs: Iterable[Job]) -> tuple[Load, ...]:
    """Gather jobs by what is read at once: experts of a stack one by one, parts of any other tensor together."""
    loads: list[Load] = []
    for _, group in groupby(jobs, key=_load_key):
        members = tuple(group)
        expert = _load_key(members[0])[1]
        tensor = members[0].tensor
        if expert is not None:
            tensor = replace(tensor, shape=members[0].matrix.view).slice(expert)
        loads.append(Load(tensor=tensor, jobs=members))
    return tuple(loads)


def _load_key(job: Job) -> tuple[str, int | None]:
    first = job.matrix.index[0] if job.matrix.index else None
    # Scales and companions have no part for an expert of a stack that is stored flat: then all are read at once.
    is_sliceable = job.matrix.view == job.tensor.shape or not (job.tensor.packing or job.tensor.dtype in SCALED_DTYPES)
    return job.tensor.name, first if isinstance(first, int) and is_sliceable else None


def list_batches(loads: Sequence[Load], window_bytes: int) -> tuple[Batch, ...]:
    """Cut the loads into consecutive batches of at most `window_bytes` of values, or of one load that is larger.

    The cuts depend on nothing but the checkpoint, so that a resumed scan computes in the same groups and gives the
    same bits.
    """
    batches: list[Batch] = []
    batch: list[Load] = []
    size = 0
    for load in loads:
        if batch and size + load.decoded_bytes > window_bytes:
            batches.append(tuple(batch))
            batch, size = [], 0
        batch.append(load)
        size += load.decoded_bytes
    return (*batches, tuple(batch)) if batch else tuple(batches)
