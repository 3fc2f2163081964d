"""The first occurrences of labels."""

from __future__ import annotations

import torch
from torch import Tensor


def first_occurrences(labels: Tensor, clusters: int) -> Tensor:
    """Return the index at which each of the labels 0 to ``clusters`` − 1 first occurs."""
    first = torch.full((clusters,), len(labels), device=labels.device)
    indices = torch.arange(len(labels), device=labels.device)
    return first.scatter_reduce_(0, labels, indices, "amin")


def by_first_occurrence(labels: Tensor, clusters: int) -> Tensor:
    """Renumber the labels 0 to ``clusters`` − 1 in the order in which they first occur."""
    # The first `argsort` orders the labels by their first occurrence, its inverse numbers them.
    return first_occurrences(labels, clusters).argsort().argsort()[labels]
