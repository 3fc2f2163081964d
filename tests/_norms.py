"""Norms of groups as l1 and owl penalties count them, written out plainly."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def norms_of_groups(x: Tensor, dim: int | tuple[int, ...] = ()) -> Tensor:
    """√p times the norm of each group of p numbers, which lies along ``dim``, or is all of x."""
    norms = x.norm() if dim == () else x.norm(dim=dim)
    return math.sqrt(x.numel() / norms.numel()) * norms


def shrink_groups(x: Tensor, t: float, dim: int | tuple[int, ...] = ()) -> Tensor:
    """Each group of p numbers loses √p · t of its norm."""
    n = x.norm() if dim == () else x.norm(dim=dim, keepdim=True)
    lost = t * math.sqrt(x.numel() / n.numel())
    return torch.where(n > lost, x * (n - lost) / n, 0.0)
