"""Norms of groups as l1 and owl penalties count them. Nothing here imports the package.

A norm of a group of p numbers counts √p-fold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Dims = int | tuple[int, ...]


def root_of_size(x: Tensor, dim: Dims = ()) -> float:
    """Return √p for groups of p numbers, which lie along ``dim``, or are all of x."""
    return math.sqrt(x.numel() / _norms(x, dim).numel())


def norms_of_groups(x: Tensor, dim: Dims = ()) -> Tensor:
    """Return √p times the norm of each group of p numbers."""
    return root_of_size(x, dim) * _norms(x, dim)


def shrink_groups(x: Tensor, t: float, dim: Dims = ()) -> Tensor:
    """Take √p · t off the norm of each group of p numbers, down to zero."""
    n, lost = _norms(x, dim, keepdim=True), root_of_size(x, dim) * t
    return torch.where(n > lost, x * (n - lost) / n, 0.0)


def _norms(x: Tensor, dim: Dims, *, keepdim: bool = False) -> Tensor:
    if dim == ():
        return x.norm()
    return x.norm(dim=dim, keepdim=keepdim)
