"""Formulas in plain float64, to compare the package with. Nothing here imports it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def group_labels(groups: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The group number of each element of a member (singular values have no such groups)."""
    index = np.indices(shape) if shape else np.zeros((0,), dtype=np.int64)
    if groups == "element":
        return np.arange(int(np.prod(shape))).reshape(shape)
    if groups == "output":
        return index[0]
    if groups == "input":
        return index[1]
    assert groups == "tensor"
    return np.zeros(shape, dtype=np.int64)


def group_count(groups: str, shape: tuple[int, ...], count: int) -> int:
    if groups == "spectrum":
        return min(shape[0], int(np.prod(shape[1:]))) if count == 1 else count
    return int(group_labels(groups, shape).max(initial=-1)) + 1


def centers(
    center: str, members: Sequence[Array], start: Sequence[Array] | None = None
) -> list[Array]:
    """c_1 … c_N."""
    if center == "zero":
        return [np.zeros_like(w) for w in members]
    if center == "mean":
        return [np.mean(np.stack(members), axis=0)] * len(members)
    if center == "first":
        return [members[0]] * len(members)
    assert center == "start"
    assert start is not None
    return list(start)


def root_of_size(name: str, groups: str, shape: tuple[int, ...]) -> float:
    """√p for groups of p elements, where the norm counts them √p-fold; else 1."""
    if name == "squared" or groups == "spectrum":
        return 1.0
    return float(np.sqrt(np.sum(group_labels(groups, shape) == 0)))


def scale(name: str, groups: str, center: str, members: Sequence[Array]) -> float:
    """s."""
    of_center = np.sqrt(len(members)) if center == "mean" else 1.0
    return of_center * root_of_size(name, groups, members[0].shape)


def deviations(
    name: str,
    groups: str,
    center: str,
    members: Sequence[Array],
    start: Sequence[Array] | None = None,
) -> list[Array]:
    """D_i = s·(W_i − c_i)."""
    s = scale(name, groups, center, members)
    return [s * (w - c) for w, c in zip(members, centers(center, members, start), strict=True)]


def group_norms(groups: str, devs: Sequence[Array]) -> Array:
    """n_g = ‖D_g‖₂ over the elements of the group in all members; or the singular values."""
    shape = devs[0].shape
    if groups == "spectrum":
        table = (
            devs[0].reshape(shape[0], -1) if len(devs) == 1 else np.stack([d.ravel() for d in devs])
        )
        values = np.linalg.svd(table, compute_uv=False)
        return np.append(values, np.zeros(group_count(groups, shape, len(devs)) - len(values)))
    labels = group_labels(groups, shape)
    return np.array(
        [
            np.sqrt(sum(np.sum(np.square(d[labels == g])) for d in devs))
            for g in range(group_count(groups, shape, len(devs)))
        ]
    )


def norm(name: str, n: Array, weights: Array | None = None) -> float:
    """ω(n)."""
    if name == "squared":
        return float(0.5 * np.sum(n**2))
    if name == "l1":
        return float(np.sum(np.abs(n)))
    assert weights is not None
    return float(np.sum(weights * np.sort(np.abs(n))[::-1]))


def polar(name: str, n: Array, weights: Array | None = None) -> float:
    """The polar (dual) norm of ω: the least number p with ⟨n, m⟩ ≤ p·ω(m) for all m."""
    descending = np.sort(np.abs(n))[::-1]
    if name == "l1":
        return float(descending[0])
    assert weights is not None
    return float(np.max(np.cumsum(descending) / np.cumsum(weights)))


def value(
    name: str,
    groups: str,
    center: str,
    members: Sequence[Array],
    weights: Array | None = None,
    start: Sequence[Array] | None = None,
) -> float:
    """Ω(W_1, …, W_N)."""
    devs = deviations(name, groups, center, members, start)
    return norm(name, group_norms(groups, devs), weights)


def prox_owl(values: Array, weights: Array) -> Array:
    """Sort, subtract weights, pool neighbours until all are in order, clip, undo the sort."""
    order = np.argsort(-np.abs(values), kind="stable")
    blocks = [[shifted] for shifted in np.abs(values)[order] - weights]
    in_order = False
    while not in_order:
        in_order = True
        for i in range(len(blocks) - 1):
            if np.mean(blocks[i]) < np.mean(blocks[i + 1]):
                blocks[i : i + 2] = [blocks[i] + blocks[i + 1]]
                in_order = False
                break
    result = np.zeros_like(values)
    result[order] = [max(float(np.mean(block)), 0.0) for block in blocks for _ in block]
    return np.sign(values) * result


def prox_norm(name: str, n: Array, step: float, weights: Array | None = None) -> Array:
    """argmin_r ½‖r − n‖² + t·ω(r), for n ≥ 0."""
    if name == "squared":
        return n / (1.0 + step)
    if name == "l1":
        return np.maximum(n - step, 0.0)
    assert weights is not None
    return prox_owl(n, step * weights)


def solve_prox_owl(values: Array, weights: Array) -> Array:
    x = cp.Variable(len(values))
    return _solve(0.5 * cp.sum_squares(x - values) + _owl(cp.abs(x), weights), x)


def solve_prox(
    name: str,
    groups: str,
    center: str,
    members: Sequence[Array],
    steps: Sequence[float],
    weights: Array | None = None,
    start: Sequence[Array] | None = None,
) -> list[Array]:
    r"""argmin_V Σ ‖V_i − W_i‖² / (2 t_i) + Ω(V), where V_i = W_i if t_i = 0 or others follow."""
    shape, count = members[0].shape, len(members)
    flat = np.stack([w.ravel() for w in members])
    frozen = [i for i, t in enumerate(steps) if t == 0.0 or (center == "first" and i == 0)]
    v = cp.Variable(flat.shape)
    if center == "mean":
        devs = v - np.ones((count, count)) / count @ v
    else:
        devs = v - np.stack([c.ravel() for c in centers(center, members, start)])
    devs = scale(name, groups, center, members) * devs
    moved = [
        cp.sum_squares(v[i] - flat[i]) / (2.0 * t) for i, t in enumerate(steps) if i not in frozen
    ]
    objective = sum(moved) + _penalty(name, groups, devs, shape, weights)
    solution = _solve(objective, v, [v[i] == flat[i] for i in frozen])
    return [row.reshape(shape) for row in solution]


def _penalty(
    name: str, groups: str, devs: cp.Expression, shape: tuple[int, ...], weights: Array | None
) -> cp.Expression:
    if name == "squared":  # the sum of the squares of all norms, whatever the groups
        return 0.5 * cp.sum_squares(devs)
    if groups == "spectrum":
        table = (
            cp.reshape(devs, (shape[0], int(np.prod(shape[1:]))), order="C")
            if devs.shape[0] == 1
            else devs
        )
        return cp.normNuc(table) if name == "l1" else _owl_of_singular_values(table, weights)
    labels = group_labels(groups, shape).ravel()
    norms = cp.hstack(
        [cp.norm(cp.vec(devs[:, labels == g], order="C"), 2) for g in range(labels.max() + 1)]
    )
    return cp.sum(norms) if name == "l1" else _owl(norms, weights)


def _owl(norms: cp.Expression, weights: Array) -> cp.Expression:
    """Σ w_k n_(k) = Σ (w_k − w_{k+1}) · (sum of the k largest)."""
    drops = weights - np.append(weights[1:], 0.0)
    return cp.sum(
        [drop * cp.sum_largest(norms, k) for k, drop in enumerate(drops, start=1) if drop > 0.0]
    )


def _owl_of_singular_values(table: cp.Expression, weights: Array) -> cp.Expression:
    """The same by the largest eigenvalues of the symmetric dilation [[0, X], [Xᵀ, 0]]."""
    rows, columns = table.shape
    dilation = cp.bmat([[np.zeros((rows, rows)), table], [table.T, np.zeros((columns, columns))]])
    drops = weights - np.append(weights[1:], 0.0)
    return cp.sum(
        [
            drop * cp.lambda_sum_largest(dilation, k)
            for k, drop in enumerate(drops, start=1)
            if drop > 0.0
        ]
    )


def _solve(
    objective: cp.Expression, variable: cp.Variable, constraints: Sequence[cp.Constraint] = ()
) -> Array:
    problem = cp.Problem(cp.Minimize(objective), list(constraints))
    with warnings.catch_warnings():
        # Asked for more than double precision has, the solver stops at its best; the comparison is
        # the judge.
        warnings.filterwarnings(
            "ignore", message="Solution may be inaccurate", category=UserWarning
        )
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert variable.value is not None, problem.status
    return np.asarray(variable.value)


def solved(
    total: cp.Expression, v: cp.Variable, members: Sequence[Array], steps: Sequence[float]
) -> list[Array]:
    """The members of the least total, where those of step 0 do not move."""
    fixed = [v[i] == members[i].ravel() for i, t in enumerate(steps) if t == 0.0]
    problem = cp.Problem(cp.Minimize(total), fixed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return [row.reshape(members[0].shape) for row in v.value]
