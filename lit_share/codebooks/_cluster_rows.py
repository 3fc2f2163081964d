"""Clustering of rows that are alike in direction and length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_share.codebooks._first_occurrences import by_first_occurrence

# SciPy and scikit-learn are imported in the functions that use them: they take most of a second,
# and clustering runs once, after training.

MethodName = Literal["auto", "affinity_propagation", "linkage"]
Array = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

# At 1,024 rows, affinity propagation takes 0.3 to 1.3 s and 50 MB; at 3,000, 4 to 20 s and 400 MB.
AFFINITY_PROPAGATION_ROWS = 1024
# Average linkage stores the distances of all pairs: 64 MB at 2,000 rows.
LINKAGE_ROWS = 2000
# Elsewhere, similarities are computed in blocks of this many, whose graph takes less than 60 MB.
BLOCK = 2**20
# Weights and their similarities are rounded: without a tolerance, equal rows may miss similarity 1.
ROUNDING = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}


def cluster_rows(rows: Tensor, similarity: float = 0.7, method: MethodName = "auto") -> Tensor:
    r"""Cluster rows that are alike in direction and length.

    .. math::
        S_{ij} = \frac{\langle w_i, w_j \rangle}{\max(\lVert w_i \rVert^2, \lVert w_j \rVert^2)}

    is the similarity of two rows: 1 for equal rows, c for a row and c ≤ 1 times that row, 0 for
    orthogonal and −1 for opposite rows. Rows of zeros have no direction and belong to no cluster;
    a row without similar rows is a cluster by itself; equal rows are always in the same cluster.
    The result depends neither on the order of the rows nor on the scale of the matrix.

    - ``"affinity_propagation"``, the paper's method, chooses exemplars :math:`c(i)` among the rows
      to maximise :math:`\sum_i S_{i\,c(i)}`, where an exemplar counts with the *preference*
      :math:`S_{ii}` = ``similarity``. Large groups of rows that are not nearly equal are split,
      because a second exemplar pays off once enough rows are slightly more similar to it. Time and
      memory are quadratic in the number of rows: the method is for hundreds of them.
    - ``"linkage"`` is for large layers: average linkage of the distances 1 − S, cut at
      1 − ``similarity``, merges clusters while the *average* similarity of their rows is at least
      ``similarity``. It runs within connected components of the pairs with :math:`S_{ij} \ge`
      ``similarity``, which gives the same clusters in memory linear in the number of rows. In a
      component of more than 2,000 rows, exemplars are chosen greedily instead: first the row with
      the largest :math:`\sum_j (S_{ij} - \text{similarity})_+`, then the best row that is not yet
      similar to an exemplar. Each row follows its most similar exemplar.
    - ``"auto"`` is affinity propagation for up to 1,024 different rows, and linkage for more.

    Args:
        rows: Matrix of shape ``(n, d)``, of any floating dtype and on any device; the computation
            runs on the CPU.
        similarity: In (0, 1]: the similarity of the rows of a cluster. The paper uses 0.6 to 0.8;
            1 joins equal rows only.
        method: The clustering method.

    Returns:
        Int64 tensor of shape ``(n,)`` on the CPU: the cluster of each row, −1 for rows of zeros.
        Clusters are numbered from 0 in the order of their first rows.

    Raises:
        ValueError: If ``rows`` is not a matrix of finite floating-point numbers, or another
            argument is out of its range.

    Warns:
        UserWarning: If affinity propagation did not converge. Rows without a cluster are then
            clusters by themselves.

    Example:
        The first and the third row are alike; the second has their direction, but is far longer:

        >>> rows = torch.tensor([[1.0, 0.0], [9.0, 0.0], [1.0, 0.1], [0.0, 0.0], [-1.0, 0.0]])
        >>> cluster_rows(rows)
        tensor([ 0,  1,  0, -1,  2])

    Source:
        Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and
        Sparsification in Deep Learning*, ICLR 2018, Section 3; Frey, Dueck: *Clustering by Passing
        Messages Between Data Points*, Science 2007.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(
            f"cluster_rows needs a matrix of floating-point numbers, got shape {tuple(rows.shape)} "
            f"of {rows.dtype}: flatten a kernel first, one row for each unit"
        )
    if not isinstance(similarity, float | int) or not 0.0 < similarity <= 1.0:
        raise ValueError(f"cluster_rows needs 0 < similarity <= 1, got similarity={similarity!r}")
    if method not in get_args(MethodName):
        choices = ", ".join(map(repr, get_args(MethodName)))
        raise ValueError(f"unknown method {method!r}: choose from {choices}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            "cluster_rows needs finite rows, but some are NaN or infinite: training has diverged"
        )

    labels = torch.full((len(rows),), -1)
    nonzero = (rows != 0).any(dim=1).cpu()
    if not bool(nonzero.any()):
        return labels
    distinct, inverse = _Rows.of(rows.detach().cpu()[nonzero])
    if method == "auto":
        few = len(distinct) <= AFFINITY_PROPAGATION_ROWS
        method = "affinity_propagation" if few else "linkage"
    found = torch.from_numpy(_METHODS[method](distinct, similarity))
    clusters, inverse = found[inverse].unique(return_inverse=True)
    labels[nonzero] = by_first_occurrence(inverse, len(clusters))
    return labels


@dataclass(frozen=True)
class _Rows:
    """Distinct nonzero rows: directions of length 1, lengths, and how often each row occurs."""

    directions: Array
    lengths: Array
    counts: Indices

    @classmethod
    def of(cls, matrix: Tensor) -> tuple[_Rows, Tensor]:
        """Return a matrix's distinct rows, and for each row of the matrix its index in them."""
        # `unique` sorts the rows, so that their order in the matrix does not matter, not even where
        # rounding or chance decides between two clusters.
        matrix, inverse, counts = matrix.unique(dim=0, return_inverse=True, return_counts=True)
        # This is the largest array of all. `unique` returned a copy, which is divided in place.
        directions = matrix.double().numpy()
        # Rows are divided by their largest number first, because the square of a tiny number is
        # zero, and that of a huge number infinite.
        largest = np.maximum(directions.max(axis=1), -directions.min(axis=1))
        directions /= largest[:, None]
        lengths = np.sqrt(np.einsum("ij,ij->i", directions, directions))
        directions /= lengths[:, None]
        return cls(directions, lengths * (largest / largest.max()), counts.numpy()), inverse

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, which: Indices | slice) -> _Rows:
        return _Rows(self.directions[which], self.lengths[which], self.counts[which])

    def single(self) -> _Rows:
        # Single precision is twice as fast, and precise enough to say which rows are not alike.
        return _Rows(
            self.directions.astype(np.float32), self.lengths.astype(np.float32), self.counts
        )

    def blocks(self, width: int) -> Iterator[slice]:
        """Return slices of these rows, each with at most `BLOCK` similarities to ``width`` rows."""
        height = max(BLOCK // width, 1)
        return (slice(start, start + height) for start in range(0, len(self), height))

    def similarities(self, others: _Rows) -> Array:
        """Return the similarities S of `cluster_rows`, a matrix of these rows × ``others``."""
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

    # A row that occurs m times adds m times its similarity to its exemplar. As an exemplar it adds
    # the preference once, and similarity 1 for each of its other copies.
    scores = rows.all_similarities() * rows.counts[:, None]
    preference = similarity + (rows.counts - 1.0)
    # S is symmetric, so that either of two rows can be the exemplar of the other. Messages then
    # oscillate until they stop undecided, which leaves the rows in separate clusters. Noise of 1e-6
    # decides; scikit-learn adds 1e-16, which is too little.
    preference += 1e-6 * np.random.default_rng(0).random(len(rows))
    model = AffinityPropagation(
        affinity="precomputed",
        preference=preference,
        # With less damping, loose groups can oscillate for ever. Damping slows the messages down,
        # so that 15 iterations without a change, the default, do not show that they converged.
        damping=0.9,
        convergence_iter=50,
        max_iter=1000,
        copy=False,
        random_state=0,
    )
    with warnings.catch_warnings():
        # The warning below replaces it, and says what to do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Equally similar rows are no problem: they become one cluster, or one cluster each.
        warnings.filterwarnings(
            "ignore", "All samples have mutually equal similarities", UserWarning
        )
        labels: Indices = model.fit(scores).labels_.astype(np.intp)
    if model.n_iter_ == model.max_iter:
        alone = labels < 0
        labels[alone] = len(labels) + np.flatnonzero(alone)
        warnings.warn(
            f"affinity propagation of {len(rows)} rows did not settle in {model.max_iter} "
            f"iterations: its clusters may not be the best, and the {alone.sum()} rows for which "
            'it found none are clusters of one. method="linkage" always finds clusters',
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
    """Return a label per row: its component in the graph that joins rows of this similarity."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(rows)
    labels = np.arange(n)
    for block in rows.blocks(n):
        # Each pair is compared once: a block with itself and the rows after it.
        similarities = rows[block].similarities(rows[block.start :])
        # The tolerance of single precision can only join components, and average linkage separates
        # again the rows that it should not have joined.
        i, j = (similarities >= similarity - ROUNDING[similarities.dtype]).nonzero()
        # The nodes are the components so far rather than rows, so that earlier edges are kept.
        i, j = labels[i + block.start], labels[j + block.start]
        graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(n, n))
        labels = connected_components(graph, directed=False)[1].astype(np.intp)[labels]
    return labels


def _average_linkage(rows: _Rows, similarity: float) -> Indices:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    # Rows are repeated as often as they occur, because averages are taken over all of them.
    copies = np.repeat(np.arange(len(rows)), rows.counts)
    distances = rows[copies].all_similarities()
    np.subtract(1.0, distances, out=distances)
    tree = linkage(squareform(distances.clip(0.0, out=distances), checks=False), "average")
    labels = fcluster(tree, 1.0 - similarity + ROUNDING[distances.dtype], "distance")
    first_copies = np.cumsum(rows.counts) - rows.counts
    found: Indices = labels[first_copies].astype(np.intp) - 1
    return found


def _exemplars(rows: _Rows, similarity: float) -> Indices:
    """Choose exemplars greedily, and return each row's nearest one, as its number among them."""
    threshold = similarity - ROUNDING[rows.directions.dtype]
    gains_of_blocks = []
    for block in rows.blocks(len(rows)):
        excess = (rows[block].similarities(rows) - similarity).clip(0.0)
        gains_of_blocks.append(excess @ rows.counts)
    candidates = np.argsort(-np.concatenate(gains_of_blocks), kind="stable")
    exemplars: list[int] = []
    while len(candidates):
        # Candidates are compared a block at a time: similarities to all rows need not fit memory.
        block = next(rows.blocks(len(candidates)))
        similar = rows[candidates[block]].similarities(rows[candidates]) >= threshold
        covered = np.zeros(len(candidates), dtype=bool)
        for k, row in enumerate(candidates[block]):
            if not covered[k]:
                exemplars.append(row)
                covered |= similar[k]
        candidates = candidates[~covered]
    chosen = rows[np.array(exemplars)]
    blocks = rows.blocks(len(chosen))
    return np.concatenate([rows[block].similarities(chosen).argmax(axis=1) for block in blocks])


_METHODS: dict[str, Callable[[_Rows, float], Indices]] = {
    "affinity_propagation": _affinity_propagation,
    "linkage": _linkage,
}
