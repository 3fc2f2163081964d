"""Members with spokes to a free center in plain float64. Nothing here imports the package."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
from scipy.optimize import minimize

from ._reference import Array, group_labels, solved


def value_of_points(points: Array) -> float:
    """min_c Σ_i ‖x_i − c‖, for points in rows: at one of them, or where BFGS finds it."""

    def height(c: Array) -> float:
        return float(np.linalg.norm(points - c, axis=1).sum())

    def slope(c: Array) -> Array:
        away = c - points
        lengths = np.linalg.norm(away, axis=1, keepdims=True)
        return (away / np.where(lengths > 0.0, lengths, 1.0)).sum(0)

    best = min(points, key=height)
    lowest = height(best)
    for start in (points.mean(0), 0.99 * best + 0.01 * points.mean(0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = minimize(height, start, jac=slope, options={"gtol": 1e-12})
        lowest = min(lowest, height(found.x))
    return lowest


def value(groups: str, members: Sequence[Array]) -> float:
    """Ω = Σ_g min_c Σ_i ‖W_i,g − c‖."""
    labels = group_labels(groups, members[0].shape).ravel()
    flat = np.stack([w.ravel() for w in members])
    return sum(value_of_points(flat[:, labels == g]) for g in range(labels.max() + 1))


def solve(groups: str, members: Sequence[Array], steps: Sequence[float]) -> list[Array]:
    """What CVXPY finds."""
    flat = np.stack([w.ravel() for w in members])
    labels = group_labels(groups, members[0].shape).ravel()
    v, c = cp.Variable(flat.shape), cp.Variable(flat.shape[1])
    total = 0.0
    for i, t in enumerate(steps):
        if t > 0.0:
            total += cp.sum_squares(v[i] - flat[i]) / (2.0 * t)
        for g in range(labels.max() + 1):
            total += cp.norm((v[i] - c)[labels == g], 2)
    return solved(total, v, members, steps)


def solve_numbers(x: Array, steps: Sequence[float]) -> Array:
    """The exact step of N numbers, given who is at, above and below the center."""
    best, least = x, np.inf
    for sides in itertools.product((-1.0, 0.0, 1.0), repeat=len(x)):
        at = [i for i, side in enumerate(sides) if side == 0.0]
        v = np.array([w - t * side for w, t, side in zip(x, steps, sides, strict=True)])
        fixed = [i for i in at if steps[i] == 0.0]
        if fixed:
            v[at] = x[fixed[0]]
        elif at:
            # Of the force of the others on the center, members in it take parts of any size.
            inverse = sum(1.0 / steps[i] for i in at)
            v[at] = (sum(x[i] / steps[i] for i in at) + sum(sides)) / inverse
        if any(t == 0.0 and v[i] != x[i] for i, t in enumerate(steps)):
            continue
        height = sum((v[i] - x[i]) ** 2 / (2.0 * t) for i, t in enumerate(steps) if t > 0.0)
        height += float(np.abs(v - np.median(v)).sum())
        if height < least:
            best, least = v, height
    return best
