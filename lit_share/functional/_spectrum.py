"""Compute singular values from Gram matrices, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_share.functional._tie_tensors import float64_on


def gram_matrix(tensors: Sequence[Tensor]) -> Tensor:
    """Return the N × N matrix of inner products of N tensors of one shape."""
    flat = [t.flatten().to(float64_on(t.device)) for t in tensors]
    return torch.stack([torch.stack([torch.dot(x, y) for y in flat]) for x in flat])


def gram_of_matrix(matrix: Tensor, of_rows: bool) -> Tensor:
    """Return the inner products of the rows of a matrix (dim 0 × the rest), or of its columns."""
    wide = matrix.flatten(1).to(float64_on(matrix.device))
    if of_rows:
        return wide @ wide.T
    return wide.T @ wide


def singular_values(gram: Tensor, dtype: torch.dtype, members: int) -> tuple[Tensor, Tensor]:
    """Return singular values, and the eigenvectors of a Gram matrix as columns.

    Args:
        gram: The Gram matrix.
        dtype: The dtype of the deviations, which determines their rounding errors.
        members: The number of stacked members; 1 for a matrix.
    """
    eigenvalues, basis = torch.linalg.eigh(gram)
    # Smaller eigenvalues are rounding errors of the Gram matrix, or of the deviations of stacked
    # members from their mean, which have at least one singular value of 0.
    noise = len(gram) * torch.finfo(gram.dtype).eps
    if members > 1:
        noise = max(noise, (4 * len(gram) * torch.finfo(dtype).eps) ** 2)
    return torch.where(eigenvalues > noise * eigenvalues.sum(), eigenvalues, 0.0).sqrt(), basis
