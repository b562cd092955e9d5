"""The same measurements on an accelerator with float64, matrices of equal shape together; imports torch when called.

Gram matrices, factors and both Lanczos iterations of a whole stack run on the device, and the host waits some twenty
times per stack. Decisions, tolerances and error bounds are those of gram_route.py, on the same seeded vectors. What few
members need, the refinement and LAPACK's singular value decomposition, is done one by one by the CPU's own code:
results differ by rounding only (design/045-accelerator.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from oblong.errors import OperationalError, UserError
from oblong.spectra.compute import (
    DEFAULT_TOLERANCE,
    SMALL,
    check_matrix,
    compute_spectrum,
    from_gram,
    from_svd,
)
from oblong.spectra.device_route import measure_stack
from oblong.spectra.device_stack import AnyMatrix, DeviceStack, find_largest, gather, to_tensor
from oblong.spectra.gram_route import MAX_LANCZOS_STEPS
from oblong.spectra.spectrum import Method, Outcome, Spectrum
from oblong.spectra.storage_rounding import RoundingRms, estimate_rounding, is_in_proportion, scale_rounding
from oblong.spectra.svd_route import measure_by_svd

if TYPE_CHECKING:
    import torch

HOST_BYTES: Final = 1 << 28
"""Memory for one stack where the device is the CPU itself, as in tests."""

SHARE_OF_MEMORY: Final = 0.4
"""Of a device's memory, for one stack: what was read ahead and the allocator's gaps need the rest."""

NUM_GRAM_SIZED: Final = 5
"""Matrices of the size of G that exist at once: G, its factor, the factor's inverse, and room for products."""


def compute_spectra_on(
    matrices: Sequence[AnyMatrix],
    *,
    device: str,
    full: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    stack_bytes: int | None = None,
) -> list[Spectrum]:
    """Measure several matrices on a torch device; those of equal shape and dtype that follow each other together.

    Args:
        matrices: (m, n) numpy arrays (float16, float32 or float64), or torch tensors (bfloat16 too), on the host or on
            the device. Not changed.
        device: cuda, cuda:1, xpu or cpu (for tests).
        full: See `compute_spectrum`.
        tolerance: See `compute_spectrum`.
        stack_bytes: Device memory for the matrices that are computed together; a share of the device's by default.

    Returns:
        One Spectrum per matrix, in order.

    Raises:
        UserError: The device has no float64 (mps).
        OperationalError: The device's memory does not suffice for one matrix.
        ValueError: See `compute_spectrum`.
    """
    if device.partition(":")[0] == "mps":
        raise UserError("Apple's mps has no float64, which condition numbers need: choose --device cpu")
    import torch

    place = torch.device(device)
    budget = stack_bytes or choose_stack_bytes(place)
    spectra: list[Spectrum] = []
    for stack in split_into_stacks([to_tensor(_check(matrix)) for matrix in matrices], budget):
        spectra += _measure_or_halve(stack, place, full=full, tolerance=tolerance)
    return spectra


def choose_stack_bytes(device: torch.device) -> int:
    """Memory for one stack.

    A share of what the device has, not of what happens to be free: the composition of a stack may change last bits,
    and the same card should give the same ones.
    """
    import torch

    if device.type != "cuda":
        return HOST_BYTES
    _, total = torch.cuda.mem_get_info(device)
    return int(SHARE_OF_MEMORY * total)


def split_into_stacks(tensors: Sequence[torch.Tensor], stack_bytes: int) -> list[list[torch.Tensor]]:
    """Consecutive tensors of equal shape and dtype, as many as `stack_bytes` allow, at least one."""
    stacks: list[list[torch.Tensor]] = []
    for tensor in tensors:
        kind = (tensor.shape, tensor.dtype)
        fits = bool(stacks) and (len(stacks[-1]) + 1) * estimate_bytes(tensor) <= stack_bytes
        if fits and (stacks[-1][0].shape, stacks[-1][0].dtype) == kind:
            stacks[-1].append(tensor)
        else:
            stacks.append([tensor])
    return stacks


def estimate_bytes(tensor: torch.Tensor) -> int:
    """Device memory that one matrix needs, apart from the panels, which are of bounded size."""
    short = min(tensor.shape)
    float64s = NUM_GRAM_SIZED * short * short + 2 * min(MAX_LANCZOS_STEPS, short) * short
    return tensor.numel() * tensor.element_size() + 8 * float64s


def _check(matrix: AnyMatrix) -> AnyMatrix:
    import torch

    if not isinstance(matrix, torch.Tensor):
        check_matrix(matrix)
    elif matrix.ndim != 2 or matrix.numel() == 0 or not matrix.is_floating_point():
        raise ValueError(f"need a non-empty matrix of floats, not {matrix.dtype} of shape {tuple(matrix.shape)}")
    return matrix


def _measure_or_halve(
    tensors: list[torch.Tensor], device: torch.device, *, full: bool, tolerance: float
) -> list[Spectrum]:
    """Measure one stack, in two parts where the device's memory does not suffice: others may use it too."""
    import torch

    try:
        return _measure_together(tensors, device, full=full, tolerance=tolerance)
    except torch.OutOfMemoryError as error:
        if len(tensors) == 1:
            shape = " x ".join(str(size) for size in tensors[0].shape)
            raise OperationalError(
                f"{device} has too little free memory for a {shape} matrix (about "
                f"{estimate_bytes(tensors[0]) / 1e9:.1f} GB): free some, or choose --device cpu"
            ) from error
    torch.cuda.empty_cache()
    half = len(tensors) // 2
    parts = (tensors[:half], tensors[half:])
    return [s for part in parts for s in _measure_or_halve(part, device, full=full, tolerance=tolerance)]


def _measure_together(
    tensors: list[torch.Tensor], device: torch.device, *, full: bool, tolerance: float
) -> list[Spectrum]:
    shape = (tensors[0].shape[0], tensors[0].shape[1])
    if min(shape) <= SMALL:
        return [_compute_on_host(tensor, full=full, tolerance=tolerance) for tensor in tensors]
    stored = gather(tensors, device)
    largest = find_largest(stored)
    regular = [index for index, value in enumerate(largest) if math.isfinite(value) and value > 0.0]
    spectra = {
        index: Spectrum(outcome=Outcome.ZERO if value == 0.0 else Outcome.NON_FINITE, shape=shape)
        for index, value in enumerate(largest)
        if index not in regular
    }
    if regular:
        kept = stored if len(regular) == len(tensors) else stored[regular]
        stack = DeviceStack(kept, [largest[index] for index in regular])
        spectra |= dict(zip(regular, _measure_regular(stack, shape, full=full, tolerance=tolerance), strict=True))
    return [spectra[index] for index in range(len(tensors))]


def _measure_regular(stack: DeviceStack, shape: tuple[int, int], *, full: bool, tolerance: float) -> list[Spectrum]:
    spectra: list[Spectrum] = []
    for matrix, found in measure_stack(stack, full=full, tolerance=tolerance):
        if found is not None:
            spectra.append(from_gram(found, shape, matrix.exponent, Method.GRAM))
            continue
        decomposed = measure_by_svd(matrix.to_array())
        spectra.append(
            Spectrum(outcome=Outcome.NOT_CONVERGED, shape=shape)
            if decomposed is None
            else from_svd(decomposed, shape, matrix.exponent)
        )
    return spectra


def _compute_on_host(tensor: torch.Tensor, *, full: bool, tolerance: float) -> Spectrum:
    """A matrix that LAPACK decomposes as fast as a device is asked."""
    import torch

    values = tensor.to("cpu", torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return compute_spectrum(values.numpy(), full=full, tolerance=tolerance)


def estimate_rounding_on(matrix: torch.Tensor, storage: str) -> RoundingRms:
    """`storage_rounding.estimate_rounding` of a tensor, where it is.

    Args:
        matrix: Shape (m, n), floating point, finite: the stored values.
        storage: See there.
    """
    if not is_in_proportion(storage):
        return estimate_rounding(matrix.double().cpu().numpy(), storage)
    import torch

    m, n = matrix.shape
    norms = [torch.linalg.vector_norm(matrix, dim=dim, dtype=torch.float64).max() for dim in (1, 0)]
    row, column = (float(norm) for norm in torch.stack(norms).cpu())
    return scale_rounding(storage, (row / math.sqrt(n), column / math.sqrt(m)))
