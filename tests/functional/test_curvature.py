from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_share.functional import Penalty, curvature


def squared(center, edges=None, groups="tensor"):
    return Penalty(norm="squared", groups=groups, center=center, edges=edges)


def of_jacobian(penalty, members, inside=False):
    """The largest eigenvalue of the gradient's Jacobian, column by column: it is linear."""
    shape = (members, 1)
    start = [torch.zeros(1, dtype=torch.float64)] * members if penalty.center == "start" else None
    columns = []
    for unit in torch.eye(members, dtype=torch.float64):
        given = [unit] if inside else [*unit.reshape(shape)]
        columns.append(torch.cat(penalty.gradient(given, start, inside=inside)).numpy())
    return max(np.linalg.eigvals(np.stack(columns, axis=1)).real)


@pytest.mark.parametrize("members", [2, 3, 8])
@pytest.mark.parametrize(("center", "edges"), [
    ("zero", None),
    ("mean", None),
    ("first", None),
    ("start", None),
    ("graph", "all"),
    ("graph", "chain"),
    ("graph", [(0, 1, 3.0)]),
])  # fmt: skip
def test_curvature_is_that_of_the_gradient(center, edges, members):
    penalty = squared(center, edges)
    assert curvature(penalty, members) == pytest.approx(of_jacobian(penalty, members))


@pytest.mark.parametrize("numbers", [2, 5])
@pytest.mark.parametrize("center", ["mean", "graph"])
def test_curvature_inside_a_tensor(center, numbers):
    penalty = squared(center, groups="element")
    expected = of_jacobian(penalty, numbers, inside=True)
    assert curvature(penalty, 1, numbers) == pytest.approx(expected)


def test_adaptive_weights_are_at_most_1():
    assert curvature(squared("graph", "adaptive"), 5) == 5.0
    assert curvature(squared("graph", "chain"), 100) < 4.0
