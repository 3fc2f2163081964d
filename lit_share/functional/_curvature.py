"""How steep squared penalties become: the largest eigenvalue of their Hessian."""

from __future__ import annotations

import math
from functools import cache

import torch

from lit_share.functional._edges import Graph
from lit_share.functional._penalty import Penalty


def curvature(penalty: Penalty, members: int, numbers: int | None = None) -> float:
    r"""Return the largest eigenvalue of the Hessian of a squared penalty without a precision.

    With the deviations :math:`D = s A W`, the penalty is :math:`\tfrac12 \lVert D \rVert^2`, and
    its Hessian is :math:`s^2 A^\top A`. Its largest eigenvalue is

    - 1 for ``center="zero"``, ``"start"`` and ``"first"``, where :math:`s = 1` and A subtracts what
      is held constant;
    - N for ``center="mean"`` of N members, where :math:`s^2 = N` and A is a projection;
    - that of the Laplacian L of :math:`\sum_e a_e^2 \lVert W_i - W_j \rVert^2` for a graph: N for
      all edges, 2 − 2 cos(π (N − 1) / N) < 4 for a chain. Adaptive weights are at most 1, so
      theirs is at most N;
    - n / (n − 1) for the n numbers of one tensor, each pair of which has the weight 1 / (n − 1).

    A step of gradient descent with the learning rate lr and the strength λ multiplies deviations by
    1 − lr λ μ, with eigenvalues μ: it diverges if lr λ μ > 2 for the largest.

    Args:
        penalty: A smooth penalty.
        members: The number of members.
        numbers: The number n of the numbers of a single member, if they are compared with each
            other.

    Returns:
        The eigenvalue; for other smooth norms that of the squared norm.

    Example:
        >>> curvature(Penalty(norm="squared", groups="tensor", center="mean"), members=4)
        4.0

    Source:
        Fiedler: *Algebraic connectivity of graphs*, Czechoslovak Mathematical Journal 1973, for the
        eigenvalues of Laplacians.
    """
    if numbers is not None:
        return numbers / max(numbers - 1, 1)
    if not penalty.centering.has_edges:
        return penalty.centering.scale(members) ** 2
    # Adaptive weights change with the members, and the limit of 1 needs none of them.
    kind = penalty.edging
    pairs = kind.pairs(members)
    if kind.weights is None and len(pairs) == math.comb(members, 2):
        return float(members)
    return _of_graph(Graph(pairs, kind.weights or (1.0,) * len(pairs)), members)


# Training asks for it at each update, and it costs N³.
@cache
def _of_graph(graph: Graph, members: int) -> float:
    return float(torch.linalg.eigvalsh(graph.laplacian(members))[-1])
