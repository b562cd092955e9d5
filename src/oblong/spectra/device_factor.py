"""Cholesky factors of a stack of Gram matrices, made of batched products, and their inverses.

On a GPU a triangular solve with one vector waits for itself row by row; a product with L^-1 does not. Its error,
eps * kappa relative to ||L^-1||, is below that of G itself, eps * kappa^2 relative to ||G^-1||.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

BLOCK: Final = 256
"""Columns that the library's own kernels, which are slow on stacks of large matrices, see at once. Untimed guess."""


@dataclass(frozen=True, kw_only=True)
class StackedFactor:
    """Cholesky factors L of a stack, G = L L^T.

    Attributes:
        lower: Shape (b, p, p), float64; NaN or anything where `info` is not 0.
        info: Shape (b,), 0 where G was positive definite to working precision.
    """

    lower: torch.Tensor
    info: torch.Tensor

    @cached_property
    def inverse(self) -> torch.Tensor:
        """L^-1, shape (b, p, p), lower triangular."""
        return invert_lower(self.lower)

    def solve(self, blocks: torch.Tensor) -> torch.Tensor:
        """G^-1 B for each member; (b, p, k)."""
        return self.inverse.mT @ (self.inverse @ blocks)

    def compute_log_volumes(self) -> torch.Tensor:
        """Sums of the logarithms of the diagonals, shape (b,)."""
        return self.lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def factorise(gram: torch.Tensor) -> StackedFactor:
    """Factorise a stack, block column by block column (right-looking, as LAPACK's `potrf`).

    Args:
        gram: Shape (b, p, p), float64, symmetric. Not changed.
    """
    import torch

    lower = gram.clone()
    info = torch.zeros(gram.shape[0], dtype=torch.int32, device=gram.device)
    for start in range(0, gram.shape[-1], BLOCK):
        stop = min(start + BLOCK, gram.shape[-1])
        corner, failed = torch.linalg.cholesky_ex(lower[:, start:stop, start:stop])
        info |= failed
        lower[:, start:stop, start:stop] = corner
        lower[:, start:stop, stop:] = 0.0
        if stop == gram.shape[-1]:
            break
        below = torch.linalg.solve_triangular(corner.mT, lower[:, stop:, start:stop], upper=True, left=False)
        lower[:, stop:, start:stop] = below
        lower[:, stop:, stop:].baddbmm_(below, below.mT, alpha=-1.0)
    return StackedFactor(lower=lower, info=info)


def invert_lower(lower: torch.Tensor) -> torch.Tensor:
    """Inverses of lower triangular matrices, by halves: [[A, 0], [B, C]]^-1 = [[A^-1, 0], [-C^-1 B A^-1, C^-1]].

    Args:
        lower: Shape (b, p, p), float64; what is above the diagonal must be zero.
    """
    import torch

    inverse = torch.zeros_like(lower)
    _invert_into(inverse, lower)
    return inverse


def _invert_into(inverse: torch.Tensor, lower: torch.Tensor) -> None:
    import torch

    size = lower.shape[-1]
    if size <= BLOCK:
        identity = torch.eye(size, dtype=lower.dtype, device=lower.device).expand_as(lower)
        inverse.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return
    half = (size // 2 + BLOCK - 1) // BLOCK * BLOCK
    _invert_into(inverse[:, :half, :half], lower[:, :half, :half])
    _invert_into(inverse[:, half:, half:], lower[:, half:, half:])
    inverse[:, half:, :half] = inverse[:, half:, half:] @ (lower[:, half:, :half] @ inverse[:, :half, :half]).neg_()
