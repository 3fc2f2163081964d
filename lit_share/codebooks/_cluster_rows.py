"""Clusters of rows: which rows of a trained weight matrix are alike enough to become one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# SciPy and scikit-learn are imported where they are used: they take most of a second, and clustering runs once, after
# training.

MethodName = Literal["auto", "affinity_propagation", "linkage"]
Array = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

# Affinity propagation takes 0.3 to 1.3 s and 50 MB for as many rows as this; 4 to 20 s and 400 MB for 3,000.
AFFINITY_PROPAGATION_ROWS = 1024
# Average linkage compares all pairs at a time: 64 MB for as many rows as this.
LINKAGE_ROWS = 2000
# How many similarities are at hand at a time elsewhere: few enough that their graph takes less than 60 MB.
BLOCK = 2**20
# Rows of weights are rounded, and so are their similarities: without a tolerance, equal rows are not surely of
# similarity 1.
ROUNDING = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}


def cluster_rows(rows: Tensor, similarity: float = 0.7, method: MethodName = "auto") -> Tensor:
    r"""Clusters of rows that are alike in direction and length, as GrOWL finds them after training.

    .. math::
        S_{ij} = \frac{\langle w_i, w_j \rangle}{\max(\lVert w_i \rVert^2, \lVert w_j \rVert^2)}

    is 1 for equal rows, c for a row and c ≤ 1 times that row, 0 for orthogonal and −1 for opposite rows. Rows that are
    exactly zero have no direction and are in no cluster; a row that is like no other is a cluster of one; equal rows
    are always in the same cluster. The result does not depend on the order of the rows, nor on the scale of the matrix.

    - ``"affinity_propagation"`` is the paper's choice: it looks for exemplars :math:`c(i)` among the rows that make
      :math:`\sum_i S_{i\,c(i)}` large, where an exemplar counts with :math:`S_{ii}` = ``similarity`` (the
      *preference*), so that a row follows an exemplar, rather than being one, where that is more similar. Groups of
      many rows that are not nearly equal are split, because a second exemplar pays as soon as enough rows are a little
      more similar to it. Time and memory grow with the square of the rows: it is for hundreds of them.
    - ``"linkage"`` is for large layers: average linkage of the distances 1 − S, cut at 1 − ``similarity``, so that
      clusters are joined while their rows have at least this similarity *on average*. It is computed within connected
      components of the pairs with :math:`S_{ij} \ge` ``similarity``, which gives the same clusters in memory
      proportional to the rows. Only a component of more than 2,000 rows (many groups with a bridge of in-between
      rows) would take too much memory: there, exemplars are chosen one by one as affinity propagation values them,
      first the row with the largest :math:`\sum_j (S_{ij} - \text{similarity})_+`, next the best one
      that is not yet similar to an exemplar, and each row follows the exemplar that it is most similar to.
    - ``"auto"`` is affinity propagation for up to 1,024 different rows, and linkage for more.

    Args:
        rows: Matrix of shape ``(n, d)``, of any floating dtype and on any device; computed with on the CPU.
        similarity: In (0, 1]: how similar the rows of a cluster are. The paper uses 0.6 to 0.8; 1 joins only rows that
            are equal.
        method: How clusters are found.

    Returns:
        Int64 tensor of shape ``(n,)`` on the CPU: the clusters are numbered from 0 in the order of their first rows;
        −1 for rows of zeros.

    Raises:
        ValueError: If ``rows`` is not a matrix of finite floating-point numbers, or another argument is out of its
            range.

    Warns:
        UserWarning: If affinity propagation did not settle. Rows for which it found no cluster are clusters of one.

    Example:
        The first and the third row are alike; the second points the same way, but is far longer:

        >>> cluster_rows(torch.tensor([[1.0, 0.0], [9.0, 0.0], [1.0, 0.1], [0.0, 0.0], [-1.0, 0.0]]))
        tensor([ 0,  1,  0, -1,  2])

    Source:
        Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep
        Learning*, ICLR 2018, Section 3; Frey, Dueck: *Clustering by Passing Messages Between Data Points*, Science
        2007.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(
            f"cluster_rows needs a matrix of floating-point numbers, got shape {tuple(rows.shape)} of {rows.dtype}: "
            "flatten a kernel first, one row for each unit"
        )
    if not isinstance(similarity, float | int) or not 0.0 < similarity <= 1.0:
        raise ValueError(f"cluster_rows needs 0 < similarity <= 1, got similarity={similarity!r}")
    if method not in get_args(MethodName):
        raise ValueError(
            f"unknown method {method!r}: choose from {', '.join(map(repr, get_args(MethodName)))}"
        )
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            "cluster_rows needs finite rows, but some are NaN or infinite: training has diverged"
        )

    labels = torch.full((len(rows),), -1)
    nonzero = (rows != 0).any(dim=1).cpu()
    if not bool(nonzero.any()):
        return labels
    distinct, places = _Rows.of(rows.detach().cpu()[nonzero])
    if method == "auto":
        method = "affinity_propagation" if len(distinct) <= AFFINITY_PROPAGATION_ROWS else "linkage"
    found = torch.from_numpy(_METHODS[method](distinct, similarity))
    labels[nonzero] = _in_order_of_first_occurrence(found[places])
    return labels


@dataclass(frozen=True)
class _Rows:
    """Different rows other than zero: directions of length 1, lengths, and how often each row occurs."""

    directions: Array
    lengths: Array
    counts: Indices

    @classmethod
    def of(cls, matrix: Tensor) -> tuple[_Rows, Tensor]:
        """The different rows of a matrix without rows of zeros, and which of them each of its rows is.

        They are sorted, so that the order of the matrix does not matter, not even where rounding or chance breaks a
        tie.
        """
        matrix, places, counts = matrix.unique(dim=0, return_inverse=True, return_counts=True)
        # A copy since `unique`, and worked on in place: this is the largest array of all.
        directions = matrix.double().numpy()
        # Divided by the largest number first: the square of a tiny one is zero, the square of a huge one infinite.
        largest = np.maximum(directions.max(axis=1), -directions.min(axis=1))
        directions /= largest[:, None]
        lengths = np.sqrt(np.einsum("ij,ij->i", directions, directions))
        directions /= lengths[:, None]
        return cls(directions, lengths * (largest / largest.max()), counts.numpy()), places

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, which: Indices | slice) -> _Rows:
        return _Rows(self.directions[which], self.lengths[which], self.counts[which])

    def single(self) -> _Rows:
        """In single precision: twice as fast, and precise enough to tell which rows are not alike."""
        return _Rows(
            self.directions.astype(np.float32), self.lengths.astype(np.float32), self.counts
        )

    def blocks(self, width: int) -> Iterator[slice]:
        """Slices of so many rows that each has at most `BLOCK` similarities with ``width`` rows."""
        height = max(BLOCK // width, 1)
        return (slice(start, start + height) for start in range(0, len(self), height))

    def similarities(self, others: _Rows) -> Array:
        """S of each of these rows with each of the others."""
        result: Array = self.directions @ others.directions.T
        result *= np.minimum.outer(self.lengths, others.lengths)
        result /= np.maximum.outer(self.lengths, others.lengths)
        return result

    def all_similarities(self) -> Array:
        result = np.empty((len(self), len(self)))
        for block in self.blocks(len(self)):
            result[block] = self[block].similarities(self)
        return result


def _affinity_propagation(rows: _Rows, similarity: float) -> Indices:
    from sklearn.cluster import AffinityPropagation
    from sklearn.exceptions import ConvergenceWarning

    # A row that occurs m times brings m times its similarity to an exemplar; as an exemplar it brings the preference
    # once, and the similarity 1 of the others to it.
    scores = rows.all_similarities() * rows.counts[:, None]
    preference = similarity + (rows.counts - 1.0)
    # Which of two rows is the exemplar of the other is a draw, because S is symmetric: messages about it go to and fro
    # until they stop without a decision, and leave the rows apart. scikit-learn's noise of 1e-16 is too small.
    preference += 1e-6 * np.random.default_rng(0).random(len(rows))
    model = AffinityPropagation(
        affinity="precomputed",
        preference=preference,
        # With less damping loose groups can oscillate for ever; with so much, less patience stops before a decision.
        damping=0.9,
        convergence_iter=50,
        max_iter=1000,
        copy=False,
        random_state=0,
    )
    with warnings.catch_warnings():
        # Said better below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # No problem: they are rightly one cluster, or all apart.
        warnings.filterwarnings(
            "ignore", "All samples have mutually equal similarities", UserWarning
        )
        labels: Indices = model.fit(scores).labels_.astype(np.intp)
    if model.n_iter_ == model.max_iter:
        alone = labels < 0
        labels[alone] = len(labels) + np.flatnonzero(alone)
        warnings.warn(
            f"affinity propagation of {len(rows)} rows did not settle in {model.max_iter} iterations: its clusters may "
            f"not be the best, and the {alone.sum()} rows for which it found none are clusters of one. "
            'method="linkage" always finds clusters',
            stacklevel=3,
        )
    return labels


def _linkage(rows: _Rows, similarity: float) -> Indices:
    single = rows.single()
    components = _components(single, similarity)
    labels = np.empty(len(rows), dtype=np.intp)
    clusters = 0
    order = np.argsort(components, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(components[order])) + 1):
        if len(members) == 1:
            found = np.zeros(1, dtype=np.intp)
        elif rows.counts[members].sum() <= LINKAGE_ROWS:
            found = _average_linkage(rows[members], similarity)
        else:
            found = _exemplars(single[members], similarity)
        labels[members] = clusters + found
        clusters += found.max() + 1
    return labels


def _components(rows: _Rows, similarity: float) -> Indices:
    """Connected components of the graph of similar pairs, in single precision.

    Its tolerance can only join components, and average linkage takes apart again what it should not have joined.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(rows)
    labels = np.arange(n)
    for block in rows.blocks(n):
        # Each pair once: with this block and those after it.
        similarities = rows[block].similarities(rows[block.start :])
        i, j = (similarities >= similarity - ROUNDING[similarities.dtype]).nonzero()
        # A graph of components (numbered below n) and not of rows, so that what was found before stays joined.
        i, j = labels[i + block.start], labels[j + block.start]
        graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(n, n))
        labels = connected_components(graph, directed=False)[1].astype(np.intp)[labels]
    return labels


def _average_linkage(rows: _Rows, similarity: float) -> Indices:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    # Each row as often as it occurs, because that counts in an average.
    copies = np.repeat(np.arange(len(rows)), rows.counts)
    distances = rows[copies].all_similarities()
    np.subtract(1.0, distances, out=distances)
    tree = linkage(squareform(distances.clip(0.0, out=distances), checks=False), "average")
    labels = fcluster(tree, 1.0 - similarity + ROUNDING[distances.dtype], "distance")
    first_copies = np.cumsum(rows.counts) - rows.counts
    found: Indices = labels[first_copies].astype(np.intp) - 1
    return found


def _exemplars(rows: _Rows, similarity: float) -> Indices:
    """Greedy exemplars, each the best of the rows that are not similar to one before; rows follow the most similar."""
    threshold = similarity - ROUNDING[rows.directions.dtype]
    gains = np.concatenate(
        [
            (rows[block].similarities(rows) - similarity).clip(0.0) @ rows.counts
            for block in rows.blocks(len(rows))
        ]
    )
    rest = np.argsort(-gains, kind="stable")
    exemplars: list[int] = []
    while len(rest):
        block = next(rows.blocks(len(rest)))
        similar = rows[rest[block]].similarities(rows[rest]) >= threshold
        covered = np.zeros(len(rest), dtype=bool)
        for k, row in enumerate(rest[block]):
            if not covered[k]:
                exemplars.append(row)
                covered |= similar[k]
        rest = rest[~covered]
    chosen = rows[np.array(exemplars)]
    return np.concatenate(
        [rows[block].similarities(chosen).argmax(axis=1) for block in rows.blocks(len(chosen))]
    )


def _in_order_of_first_occurrence(labels: Tensor) -> Tensor:
    """The same clusters, numbered from 0."""
    _, places = labels.unique(return_inverse=True)
    first = torch.full((int(places.max()) + 1,), len(places)).scatter_reduce_(
        0, places, torch.arange(len(places)), "amin"
    )
    return first.argsort().argsort()[places]


_METHODS: dict[str, Callable[[_Rows, float], Indices]] = {
    "affinity_propagation": _affinity_propagation,
    "linkage": _linkage,
}
