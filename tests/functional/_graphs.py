"""Steps on graphs in plain float64, to compare the package with. Nothing here imports it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import cvxpy as cp
import numpy as np

from . import _stars
from ._reference import Array, group_labels, root_of_size, solved

STAR = "star"
# Spokes to a free center are no list of edges.
Edges = list[tuple[int, int, float]] | Literal["star"]


def edges_of(kind: object, members: Sequence[Array]) -> Edges:
    """The edges (i, j, weight) that ``edges=`` stands for."""
    if kind == STAR:
        return STAR
    count = len(members)
    pairs = list(itertools.combinations(range(count), 2))
    if kind == "all":
        return [(i, j, 1.0) for i, j in pairs]
    if kind == "chain":
        return [(i, i + 1, 1.0) for i in range(count - 1)]
    if kind == "adaptive":
        distances = [float(np.sqrt(np.sum((members[i] - members[j]) ** 2))) for i, j in pairs]
        least = min((d for d in distances if d > 0.0), default=1.0)
        weights = [(least / d) ** 2 if d > 0.0 else 1.0 for d in distances]
        return [(i, j, a) for (i, j), a in zip(pairs, weights, strict=True)]
    return [(edge[0], edge[1], edge[2] if len(edge) == 3 else 1.0) for edge in kind]


def value(name: str, groups: str, members: Sequence[Array], edges: Edges) -> float:
    """Ω = Σ_e ω(√p a_e ‖W_i,g − W_j,g‖)."""
    labels = group_labels(groups, members[0].shape)
    root = root_of_size(name, groups, members[0].shape)
    if edges == STAR:
        return root * _stars.value(groups, members)
    total = 0.0
    for i, j, a in edges:
        difference = root * a * (members[i] - members[j])
        if name == "squared":
            total += 0.5 * float(np.sum(difference**2))
        else:
            for g in range(labels.max() + 1):
                total += float(np.sqrt(np.sum(difference[labels == g] ** 2)))
    return total


def objective(
    name: str,
    groups: str,
    point: Sequence[Array],
    members: Sequence[Array],
    steps: Sequence[float],
    edges: Edges,
) -> float:
    """Σ_i ‖V_i − W_i‖² / (2 t_i) + Ω(V), where a member of step 0 must not move."""
    distance = 0.0
    for v, w, t in zip(point, members, steps, strict=True):
        if t == 0.0:
            assert np.array_equal(v, w)
        else:
            distance += float(np.sum((v - w) ** 2)) / (2.0 * t)
    return distance + value(name, groups, point, edges)


def solve(
    name: str, groups: str, members: Sequence[Array], steps: Sequence[float], edges: Edges
) -> list[Array]:
    """What CVXPY finds."""
    root = root_of_size(name, groups, members[0].shape)
    if edges == STAR:
        return _stars.solve(groups, members, [root * t for t in steps])
    flat = np.stack([w.ravel() for w in members])
    labels = group_labels(groups, members[0].shape).ravel()
    v = cp.Variable(flat.shape)
    total = 0.0
    for i, t in enumerate(steps):
        if t > 0.0:
            total += cp.sum_squares(v[i] - flat[i]) / (2.0 * t)
    for i, j, a in edges:
        difference = root * a * (v[i] - v[j])
        if name == "squared":
            total += 0.5 * cp.sum_squares(difference)
        else:
            for g in range(labels.max() + 1):
                total += cp.norm(difference[labels == g], 2)
    return solved(total, v, members, steps)


def solve_numbers(x: Array, steps: Sequence[float], edges: Edges) -> Array:
    """The exact step of N numbers: the best of all ways to be clusters in an order."""
    if edges == STAR:
        return _stars.solve_numbers(x, steps)
    best, least = x, np.inf
    for ranks in _rankings(len(x)):
        v = x.copy()
        for rank in set(ranks):
            own = [i for i in range(len(x)) if ranks[i] == rank]
            frozen = [i for i in own if steps[i] == 0.0]
            if frozen:
                v[own] = x[frozen[0]]
                continue
            inverse = sum(1.0 / steps[i] for i in own)
            force = 0.0
            for i, j, a in edges:
                if (ranks[i] == rank) != (ranks[j] == rank):
                    other = j if ranks[i] == rank else i
                    force += a * np.sign(rank - ranks[other])
            v[own] = (sum(x[i] / steps[i] for i in own) - force) / inverse
        if any(t == 0.0 and v[i] != x[i] for i, t in enumerate(steps)):
            continue
        own = objective("l1", "element", list(v), list(x), steps, edges)
        if own < least:
            best, least = v, own
    return best


def _rankings(count: int) -> Iterator[tuple[int, ...]]:
    """All ways to give ranks 0, 1, … without gaps."""
    for ranks in itertools.product(range(count), repeat=count):
        if set(ranks) == set(range(max(ranks) + 1)):
            yield ranks
