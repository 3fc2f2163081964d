"""Edges: the pairs of members that ``center="graph"`` compares, and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

EdgesName = Literal["all", "adaptive", "chain", "star"]
# Numbers of members (i, j), or (i, j, weight).
Edge: TypeAlias = tuple[int, int] | tuple[int, int, float]
Edges: TypeAlias = EdgesName | Sequence[Edge]
Pairs: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class EdgesKind:
    """How members are connected.

    Attributes:
        pairs: Return the members (i, j) of each edge, given the number of members.
        weights: The weights of listed edges; ``None`` for 1 each.
        is_adaptive: Whether weights are those of the members' distances.
        is_complete: Whether all members are connected by edges of one weight.
        has_free_center: Whether three or more members have spokes to a free center instead, and
            only those of a pair are one edge.
    """

    pairs: Callable[[int], Pairs]
    weights: tuple[float, ...] | None = None
    is_adaptive: bool = False
    is_complete: bool = False
    has_free_center: bool = False


def _all_pairs(members: int) -> Pairs:
    return tuple(combinations(range(members), 2))


def _neighbours(members: int) -> Pairs:
    return tuple(pairwise(range(members)))


def _spokes(members: int) -> Pairs:
    if members == 2:
        return ((0, 1),)
    return ()


EDGES: dict[str, EdgesKind] = {
    "all": EdgesKind(_all_pairs, is_complete=True),
    # a_e = (d_min / d_e)², so that near members are tied more strongly.
    "adaptive": EdgesKind(_all_pairs, is_adaptive=True),
    "chain": EdgesKind(_neighbours),
    "star": EdgesKind(_spokes, has_free_center=True),
}


@dataclass(frozen=True)
class Graph:
    r"""Edges e = (i, j) between members, with weights :math:`a_e \ge 0`.

    Its linear map takes members to one deviation per edge, :math:`D_e = a_e (W_i - W_j)`.

    Attributes:
        pairs: The members (i, j) of each edge.
        weights: The weight of each edge.
    """

    pairs: Pairs
    weights: tuple[float, ...]

    def deviations(self, members: Sequence[Tensor]) -> list[Tensor]:
        """Return the deviation of each edge."""
        edges = zip(self.pairs, self.weights, strict=True)
        return [a * (members[i] - members[j]) for (i, j), a in edges]

    def adjoint(self, deviations: Sequence[Tensor], members: int) -> list[Tensor]:
        """Apply the transposed map, from a tensor for each edge to a tensor for each member."""
        like = deviations[0]
        sums = [torch.zeros_like(like) for _ in range(members)]
        for (i, j), a, own in zip(self.pairs, self.weights, deviations, strict=True):
            sums[i] = sums[i] + a * own
            sums[j] = sums[j] - a * own
        return sums

    def laplacian(self, members: int) -> Tensor:
        r"""Return the matrix L of :math:`\sum_e a_e^2 \lVert W_i - W_j \rVert^2`, in float64."""
        laplacian = torch.zeros(members, members, dtype=torch.float64)
        for (i, j), a in zip(self.pairs, self.weights, strict=True):
            signs = torch.zeros(members, dtype=torch.float64)
            signs[i], signs[j] = a, -a
            laplacian += torch.outer(signs, signs)
        return laplacian

    def is_uniform(self, members: int) -> bool:
        """Whether all pairs of members are edges of one weight."""
        return len(self.pairs) == math.comb(members, 2) and len(set(self.weights)) == 1

    def merged(self, aliases: Sequence[int]) -> Graph:
        """Return the graph with the edges of all aliases at the first of them.

        Args:
            aliases: For each member, the index of the first that is the same tensor.
        """
        edges = zip(self.pairs, self.weights, strict=True)
        ends = [((aliases[i], aliases[j]), a) for (i, j), a in edges]
        own = [(pair, a) for pair, a in ends if pair[0] != pair[1]]
        return Graph(tuple(pair for pair, _ in own), tuple(a for _, a in own))

    def moving(self, steps: Sequence[float]) -> Graph:
        """Return the edges that pull, at a member that moves."""
        edges = zip(self.pairs, self.weights, strict=True)
        own = [((i, j), a) for (i, j), a in edges if a > 0.0 and steps[i] + steps[j] > 0.0]
        return Graph(tuple(pair for pair, _ in own), tuple(a for _, a in own))


@dataclass(frozen=True)
class Star:
    r"""Spokes from members to a center that nothing else pulls at.

    It is the point c of the least :math:`\sum_i a_i \lVert W_i - c \rVert`.

    Attributes:
        weights: The weight :math:`a_i \ge 0` of each member's spoke.
    """

    weights: tuple[float, ...]

    def merged(self, aliases: Sequence[int]) -> Star:
        """Return the star with the spokes of all aliases at the first of them.

        Args:
            aliases: For each member, the index of the first that is the same tensor.
        """
        weights = [0.0] * len(self.weights)
        for first, a in zip(aliases, self.weights, strict=True):
            weights[first] += a
        return Star(tuple(weights))


def checked_edges(edges: Edges) -> Edges:
    """Return edges, with a list as a tuple.

    Raises:
        ValueError: If a name is unknown, or an edge is not valid.
    """
    if isinstance(edges, str):
        if edges not in EDGES:
            known = ", ".join(map(repr, EDGES))
            raise ValueError(
                f"unknown edges {edges!r}: write one of {known}, or a list of pairs (i, j) or "
                "(i, j, weight)"
            )
        return edges
    if len(edges) == 0:
        raise ValueError(
            'edges is empty, so nothing is tied: write edges="all", or a list of pairs'
        )
    seen: set[frozenset[int]] = set()
    checked: list[Edge] = []
    for edge in edges:
        is_edge = isinstance(edge, Sequence) and len(edge) in (2, 3)
        if not is_edge or not all(_is_index(member) for member in edge[:2]):
            raise ValueError(
                f"an edge must be (i, j) or (i, j, weight) with numbers of members from 0, got "
                f"{edge!r}"
            )
        pair = frozenset(edge[:2])
        if len(pair) == 1:
            raise ValueError(f"the edge {tuple(edge)} connects member {edge[0]} with itself")
        if pair in seen:
            raise ValueError(f"the edge between members {min(pair)} and {max(pair)} is given twice")
        seen.add(pair)
        weight = _weight(edge)
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ValueError(f"the weight of an edge must be finite and >= 0, got {tuple(edge)}")
        checked.append((edge[0], edge[1], weight))
    return tuple(checked)


def kind_of(edges: Edges) -> EdgesKind:
    """Return the entry of `EDGES`, or the kind of a list.

    Its pairs raise `ValueError` if a listed edge names a member that does not exist.

    Example:
        >>> kind_of("chain").pairs(4)
        ((0, 1), (1, 2), (2, 3))
    """
    if isinstance(edges, str):
        return EDGES[edges]
    pairs = tuple((int(edge[0]), int(edge[1])) for edge in edges)
    most = max(map(max, pairs))

    def listed(members: int) -> Pairs:
        if most >= members:
            raise ValueError(
                f"edges names member {most}, but a tie has {members} members, numbered from 0 to "
                f"{members - 1}"
            )
        return pairs

    return EdgesKind(listed, tuple(_weight(edge) for edge in edges))


def adaptive_weights(squares: Tensor) -> Tensor:
    r"""Compute weights from squared distances: near members are tied more strongly.

    .. math::
        a_e = (d_{\min} / d_e)^2

    where :math:`d_{\min}` is the smallest positive distance. Equal members have weight 1.

    Args:
        squares: The squared distance of the members of each edge.

    Returns:
        Float64 tensor on the host, like ``squares``.

    Example:
        >>> adaptive_weights(torch.tensor([0.0, 1.0, 4.0]))
        tensor([1.0000, 1.0000, 0.2500], dtype=torch.float64)

    Source:
        Tan, Witten: *Statistical Properties of Convex Clustering*, Electronic Journal of Statistics
        2015; Chi, Lange: *Splitting Methods for Convex Clustering*, JCGS 2015, which use other
        decreasing functions of the distance.
    """
    squares = squares.to("cpu", torch.float64)
    positive = squares[squares > 0.0]
    if positive.numel() == 0:
        return torch.ones_like(squares)
    return torch.where(squares > 0.0, positive.min() / squares, 1.0)


def _is_index(member: object) -> bool:
    return isinstance(member, int) and not isinstance(member, bool) and member >= 0


def _weight(edge: Edge) -> float:
    if len(edge) == 3:
        return float(edge[2])
    return 1.0
