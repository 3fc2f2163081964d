"""Singular values by way of Gram matrices, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_share.functional._tie_tensors import float64_on


def gram_matrix(tensors: Sequence[Tensor]) -> Tensor:
    """Return the inner products of N tensors of one shape: an N × N matrix."""
    flat = [t.flatten().to(float64_on(t.device)) for t in tensors]
    return torch.stack([torch.stack([torch.dot(x, y) for y in flat]) for x in flat])


def gram_of_matrix(matrix: Tensor, of_rows: bool) -> Tensor:
    """Return the inner products of the rows of a matrix (dim 0 × the rest), or of its columns."""
    wide = matrix.flatten(1).to(float64_on(matrix.device))
    return wide @ wide.T if of_rows else wide.T @ wide


def singular_values(gram: Tensor, dtype: torch.dtype, members: int) -> tuple[Tensor, Tensor]:
    """Return the singular values, and the eigenvectors of a Gram matrix as columns.

    Args:
        gram: The Gram matrix.
        dtype: Of the deviations that it was computed from, for the size of their rounding errors.
        members: How many members were stacked; 1 for a matrix.
    """
    eigenvalues, basis = torch.linalg.eigh(gram)
    # Below this, eigenvalues are rounding errors: of the Gram matrix, or of the deviations of stacked
    # members from their mean (which have one singular value less than members).
    noise = len(gram) * torch.finfo(gram.dtype).eps
    if members > 1:
        noise = max(noise, (4 * len(gram) * torch.finfo(dtype).eps) ** 2)
    return torch.where(eigenvalues > noise * eigenvalues.sum(), eigenvalues, 0.0).sqrt(), basis
