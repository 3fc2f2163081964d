"""Clustering of inputs that are correlated in data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_share.codebooks._covariance import Covariance
from lit_share.codebooks._first_occurrences import by_first_occurrence

# Equal inputs of single precision would miss similarity 1.
_ROUNDING = 1e-6


def cluster_inputs(
    covariance: Covariance, similarity: float = 0.7, clusters: int | None = None
) -> Tensor:
    r"""Cluster inputs that vary together in data.

    With the covariance C of the inputs, the clusters c explain the share

    .. math::
        S = \frac{1}{\operatorname{tr} C} \sum_c \frac1{|c|} \sum_{i, j \in c} C_{ij}

    of the inputs' variance. It is 1 where all inputs of each cluster are equal but for a constant.
    If the rows of a layer are independent and of equal variance, as they are before training, its
    outputs lose the share 1 − S of their variance when the rows of each cluster become their mean.
    Ward's method merges the two clusters whose union explains most, until S would fall below
    ``similarity``, or a number of ``clusters`` is left.

    Inputs with a larger variance count more, so that they should have comparable units.
    Inputs that are always zero belong to no cluster. Other constant inputs act as a bias, and are
    one more cluster.

    Args:
        covariance: That of the inputs.
        similarity: The least S, in (0, 1].
        clusters: The number of clusters of inputs that are not constant, in place of
            ``similarity``; all of them are alone if there are fewer.

    Returns:
        Int64 tensor of shape ``(n,)``: the cluster of each input, −1 for inputs that are always
        zero. Clusters are numbered from 0 in the order of their first inputs.

    Raises:
        ValueError: If ``similarity`` or ``clusters`` is out of its range.

    Example:
        The first two inputs vary together, and the last one is zero:

        >>> covariance = Covariance()
        >>> batch = [[1.0, 1.1, 1.0, 0.0], [2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 2.0, 0.0]]
        >>> covariance.add(torch.tensor(batch), dim=1)
        >>> cluster_inputs(covariance)
        tensor([ 0,  0,  1, -1])

    Source:
        Ward: *Hierarchical Grouping to Optimize an Objective Function*, JASA 1963. For the inputs
        of regression, Bühlmann, Rütimann, van de Geer, Zhang: *Correlated Variables in Regression:
        Clustering and Sparse Estimation*, JSPI 2013, cluster by correlation.
    """
    check_clustering(similarity, clusters)
    constant = covariance.constant()
    labels = torch.full((len(constant),), -1)
    found = _ward(covariance.of_varying(), similarity, clusters)
    labels[~constant] = found
    labels[constant & (covariance.mean != 0.0)] = len(found)
    assigned = labels >= 0
    if not bool(assigned.any()):
        return labels
    numbers, inverse = labels[assigned].unique(return_inverse=True)
    labels[assigned] = by_first_occurrence(inverse, len(numbers))
    return labels


def check_clustering(similarity: float, clusters: int | None) -> None:
    """Raise `ValueError` if an argument of `cluster_inputs` is out of its range."""
    if not isinstance(similarity, float | int) or not 0.0 < similarity <= 1.0:
        raise ValueError(f"inputs are clustered with 0 < similarity <= 1, got {similarity!r}")
    if clusters is not None and (not isinstance(clusters, int) or clusters < 1):
        raise ValueError(f"clusters must be a whole number >= 1 or None, got {clusters!r}")


def _ward(covariance: Tensor, similarity: float, clusters: int | None) -> Tensor:
    # SciPy takes most of a second to import.
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    n = len(covariance)
    if n < 2:
        return torch.zeros(n, dtype=torch.int64)
    # The mean square of x_i − x_j, both without their means.
    variances = covariance.diagonal()
    squares = (variances + variances[:, None] - 2.0 * covariance).clamp_min_(0.0)
    squares.fill_diagonal_(0.0)
    tree = linkage(squareform(squares.sqrt_().numpy(), checks=False), "ward")
    # A merge at height h adds h² / 2 to the variance within clusters.
    lost = np.cumsum(tree[:, 2] ** 2) / 2.0
    bound = (1.0 - similarity + _ROUNDING) * float(variances.sum())
    merges = int(np.searchsorted(lost, bound, side="right"))
    if clusters is not None:
        merges = n - min(clusters, n)
    return torch.from_numpy(cut_tree(tree, [n - merges])[:, 0].astype(np.int64))
