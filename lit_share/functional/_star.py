r"""Solve for the center of a star: the point that members are pulled towards, each at most by 1.

.. math:: \Omega(W) = \min_c \sum_i a_i \lVert W_i - c \rVert

for each group, with a spoke of weight :math:`a_i` for each member i. In a proximal step, member i
moves to c if that is nearer than :math:`a_i t_i`, and otherwise by :math:`a_i t_i` towards c. So c
is the point of least :math:`\sum_i h_i(\lVert W_i - c \rVert)` with the Huber function

.. math::
    h_i(r) = \begin{cases}
        r^2 / (2 t_i) & r \le a_i t_i \\ a_i r - a_i^2 t_i / 2 & \text{otherwise}
    \end{cases}

and for :math:`t_i = 0` the geometric median. A member far away pulls c with the same force wherever
it is. With weights :math:`w_i = a_i / \max(\lVert W_i - c \rVert, a_i t_i)`, c is the weighted mean
of the members, hence a row of N coefficients, for which the Gram matrix is all that is needed.

The search begins at the best of the members and their mean. Each turn takes a Newton
step, a fraction of that or the weighted mean, which is never worse than the last center. Typical
ties take 1 to 10 turns. The forces :math:`U_i = w_i (W_i - c)`, made to sum to zero, are a feasible
point of the dual, so that the duality gap says when to stop:

.. math::
    \sum_i \frac{1}{2 t_i} \lVert V_i - V_i^* \rVert^2 \le
    \sum_i h_i(\lVert W_i - c \rVert) - \langle U_i, W_i \rangle
    + \tfrac{t_i}{2} \lVert U_i \rVert^2

Distances that are below the rounding errors of the Gram matrix count as zero: the kink of a member
of step 0 is rounded by that much, and then c moves to the member, if it is as near as that.

Source:
    Duan, Wang: *Adaptive and Robust Multi-Task Learning*, Annals of Statistics 2023; Vardi, Zhang:
    *The Multivariate L1-Median and Associated Data Depth*, PNAS 2000, for the geometric median;
    Huber, Ronchetti: *Robust Statistics*, 2009, for the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lit_share.functional._duals import GAP, LEAST_CHANGE, LEAST_GAP, MOST_TURNS, Clusters
from lit_share.functional._edges import Star
from lit_share.functional._fused import compile_loop, run_ranges

EPS = torch.finfo(torch.float64).eps
# The Newton matrix of members on a line is singular, and is moved away from that by this much.
RIDGE = 64.0 * EPS
# Newton's step is taken if it leads at most this many times as high as the mean, as rounding errors
# hide the rest. Otherwise it is halved so often, and the best of all is taken.
CLOSE, HALVES = 1.0 + 8.0 * EPS, 20
# Turns in a row without a lower height, after which only rounding errors are left.
PATIENCE = 3
# A thread solves at least so many coefficients of Gram matrices.
_LEAST_PER_THREAD = 2**12


@dataclass(frozen=True)
class FreeCenters:
    """The center of each group.

    Attributes:
        rows: The coefficients of the members, which sum to 1, of shape ``(groups, N)``, in float64
            on the host.
        is_near: Whether members are at the center after the step, of the same shape.
    """

    rows: Tensor
    is_near: Tensor


def solve_star(gram: Tensor, star: Star, steps: Sequence[float]) -> Clusters:
    """Solve for the proximal step of each group.

    Args:
        gram: The inner products of the members' differences from one of them, of shape
            ``(groups, N, N)``.
        star: The spokes.
        steps: The step of each member.
    """
    groups, count, _ = gram.shape
    having = [i for i, a in enumerate(star.weights) if a > 0.0]
    if len(having) == count:
        _, clusters = _solve(gram, star.weights, steps)
        return clusters
    # Aliases without a spoke do not count, and stay.
    own_steps, own_weights = [steps[i] for i in having], [star.weights[i] for i in having]
    _, clusters = _solve(gram[:, having][:, :, having], own_weights, own_steps)
    members = torch.tensor(having)
    moves, leaders = gram.new_zeros(groups, count, count), torch.arange(count).repeat(groups, 1)
    moves[:, members.unsqueeze(1), members] = clusters.moves.to(moves)
    leaders[:, members] = members[clusters.leaders]
    return Clusters(moves, leaders)


def solve_forces(gram: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve for the value and the forces that members exert on the center.

    .. math::
        U_i = \frac{W_i - c}{\lVert W_i - c \rVert}

    for members away from the center. Members at the center share the force that makes the sum zero,
    so that the result is a subgradient of the penalty.

    Args:
        gram: The inner products of the members' differences from one of them, of shape
            ``(groups, N, N)``.

    Returns:
        The value of each group, and the coefficients of the forces, of shape ``(groups, N, N)``, in
        float64 on the host.
    """
    gram, count = gram.to("cpu", torch.float64), gram.shape[-1]
    centers, _ = _solve(gram, [1.0] * count, [0.0] * count)
    own = torch.eye(count, dtype=gram.dtype) - centers.rows.unsqueeze(1)
    distances = _norms(own, gram).masked_fill(centers.is_near, 0.0)
    forces = own / torch.where(distances > 0.0, distances, torch.inf).unsqueeze(-1)
    return distances.sum(-1), balanced(forces, centers.is_near.unsqueeze(-1), dim=1)


def balanced(forces: Tensor, is_near: Tensor, dim: int) -> Tensor:
    """Return forces along ``dim``, of which those at the center make their sum zero."""
    near = is_near.to(forces.dtype).sum(dim, keepdim=True)
    rest = forces.masked_fill(is_near, 0.0).sum(dim, keepdim=True)
    return torch.where(is_near, -rest / near.clamp_min(1.0), forces)


def _solve(
    gram: Tensor, weights: Sequence[float], steps: Sequence[float]
) -> tuple[FreeCenters, Clusters]:
    gram = gram.to("cpu", torch.float64).contiguous()
    loop = _compiled()
    if loop is None:
        return solve_plainly(gram, weights, steps)
    groups, count, _ = gram.shape
    rows, is_near = np.empty((groups, count)), np.empty((groups, count), np.bool_)
    moves, leaders = np.empty((groups, count, count)), np.empty((groups, count), np.int64)
    arrays = (gram.numpy(), np.array(weights), np.array(steps), rows, is_near, moves, leaders)
    least = max(1, _LEAST_PER_THREAD // count**2)
    run_ranges(lambda begin, end: loop(*arrays, begin, end), groups, least)
    centers = FreeCenters(torch.from_numpy(rows), torch.from_numpy(is_near))
    return centers, Clusters(torch.from_numpy(moves), torch.from_numpy(leaders))


@cache
def _compiled() -> Callable[..., None] | None:
    """Return the compiled loop; ``None`` without Numba."""
    cube, table, numbers = np.empty((0, 0, 0)), np.empty((0, 0)), np.empty(0)
    bits, indices = np.empty((0, 0), np.bool_), np.empty((0, 0), np.int64)
    arguments = (cube, numbers, numbers, table, bits, cube, indices, 0, 0)
    loop: Callable[..., None] | None = compile_loop("solve_star", *arguments)
    return loop


def solve_plainly(
    gram: Tensor, weights: Sequence[float], steps: Sequence[float]
) -> tuple[FreeCenters, Clusters]:
    """Solve for the step of each group in torch: the specification of the compiled loop.

    Args:
        gram: The Gram matrices, of shape ``(groups, N, N)``, in float64 on the host.
        weights: The weight of each spoke, > 0.
        steps: The step of each member.
    """
    search = _Search(gram, gram.new_tensor(weights), gram.new_tensor(steps))
    search.run()
    centers = search.snapped()
    own, near = centers.rows.unsqueeze(1) - search.eye, centers.is_near
    most = search.weights * search.steps
    distances = _norms(own, gram)
    # The force of members outside of their reach is full.
    fraction = torch.where(near, 1.0, most / torch.where(distances > 0.0, distances, 1.0))
    can_move = search.steps > 0.0
    moves = torch.where(can_move.unsqueeze(-1), fraction.unsqueeze(-1) * own, 0.0)
    # A member of step 0 at the center is the center, and leads.
    count = len(steps)
    members = torch.arange(count)
    order = torch.where(near, members + count * can_move, 2 * count)
    leaders = torch.where(near & can_move, order.argmin(-1, keepdim=True), members)
    return centers, Clusters(moves, leaders)


class _Search:
    """The search of all groups for their center."""

    def __init__(self, gram: Tensor, weights: Tensor, steps: Tensor) -> None:
        self.gram, self.weights, self.steps = gram, weights, steps
        self.eye = torch.eye(len(steps), dtype=gram.dtype)
        squares = gram.diagonal(dim1=-2, dim2=-1)
        tiny = torch.finfo(gram.dtype).tiny
        self.sizes = squares.clamp_min(0.0).sqrt()
        # Distances below this are rounding errors, but for members far away from most others.
        middle = self.sizes.sort(-1).values[:, len(steps) // 2, None]
        self.noise = math.sqrt(4.0 * len(steps) * EPS) * middle
        self.reach = torch.maximum(weights * steps, self.noise.clamp_min(tiny))
        # The search begins at a member, or at the mean, which is near the center of two clusters.
        starts = torch.cat([self.eye, self.eye.mean(0, keepdim=True)])
        along = starts @ gram
        own = (along * starts).sum(-1)
        between = squares.unsqueeze(1) + own.unsqueeze(2) - 2.0 * along
        heights = self._heights(between.clamp_min(0.0).sqrt(), self.reach.unsqueeze(1)).sum(-1)
        self.rows = starts[heights.argmin(-1)]
        self.gaps = gram.new_zeros(len(gram))

    def run(self) -> None:
        """Search until all gaps are small."""
        change = torch.full_like(self.gaps, torch.inf)
        is_open = change > 0.0
        lowest, idle = change, torch.zeros_like(self.gaps)
        for _ in range(MOST_TURNS * len(self.steps)):
            own = self.eye - self.rows.unsqueeze(1)
            inner = own @ self.gram @ own.mT
            distances = inner.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
            pull = self.weights / torch.maximum(distances, self.reach)
            gaps, least = self._gap(inner, distances, pull)
            heights = self._heights(distances, self.reach).sum(-1)
            idle = torch.where(heights > (1.0 - EPS) * lowest, idle + 1.0, 0.0)
            lowest = torch.minimum(lowest, heights)
            # Comparisons with NaN are false, and end the search.
            is_open &= (gaps > least) & (change > LEAST_CHANGE) & (idle < PATIENCE)
            # Where the height no longer falls, the rest of the gap is rounding errors.
            self.gaps = torch.where(is_open, gaps, torch.minimum(gaps, least))
            if not bool(is_open.any()):
                break
            total = pull.sum(-1, keepdim=True)
            mean = (pull.unsqueeze(-1) * own).sum(1) / total
            along = self._along(inner, distances, pull)
            newton = mean + (along.unsqueeze(-1) * own).sum(1) / total
            step = self._best(own, newton, mean)
            change = step.abs().amax(-1)
            self.rows = torch.where(is_open.unsqueeze(-1), self.rows + step, self.rows)

    def snapped(self) -> FreeCenters:
        """Return the centers, at a member of step 0 where one is near."""
        distances = _norms(self.eye - self.rows.unsqueeze(1), self.gram)
        slack = 2.0 * (2.0 * self.gaps.unsqueeze(-1) * self.steps).sqrt()
        noise = torch.maximum(self._noise(), self.noise)
        most = (self.weights * self.steps + slack).square() + noise.square()
        is_near = distances.square() <= most
        is_fixed = is_near & (self.steps == 0.0)
        fixed = self.eye[is_fixed.to(torch.int8).argmax(-1)]
        rows = torch.where(is_fixed.any(-1, keepdim=True), fixed, self.rows)
        return FreeCenters(rows, is_near)

    def _noise(self) -> Tensor:
        """Return the rounding error of each member's distance from the center.

        Each product of coefficients has one, so a member far away spoils only its own distance.
        """
        own = (self.eye - self.rows.unsqueeze(1)).abs()
        return math.sqrt(4.0 * len(self.eye) * EPS) * (own * self.sizes.unsqueeze(1)).sum(-1)

    def _heights(self, distances: Tensor, reach: Tensor) -> Tensor:
        near = distances.square() / (2.0 * reach)
        return self.weights * torch.where(distances <= reach, near, distances - 0.5 * reach)

    def _gap(self, inner: Tensor, distances: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
        """Return the duality gap of each group, and the gap at which the search ends."""
        forces = pull * distances
        # The inner products of forces with their sum, and the square of the sum.
        along = pull * (inner @ pull.unsqueeze(-1)).squeeze(-1)
        square = along.sum(-1, keepdim=True).clamp_min(0.0)
        # The sum is taken from those that are shorter than they may be, so that few are shortened.
        slack = (self.weights - forces).clamp_min(0.0) + EPS * self.weights
        fraction = slack / slack.sum(-1, keepdim=True)
        squares = forces.square() - 2.0 * fraction * along + fraction.square() * square
        squares = squares.clamp_min(0.0)
        longest = (squares.sqrt() / self.weights).amax(-1, keepdim=True)
        kept = 1.0 / longest.clamp_min(1.0)
        products = kept * (forces * distances - fraction * along / pull)
        heights = self._heights(distances, self.reach)
        moved = self.reach / self.weights * kept.square() * squares / 2.0
        gaps = (heights - products + moved).sum(-1)
        energy = (self.steps * forces.square()).sum(-1) / 2.0
        least = torch.maximum(GAP * energy, LEAST_GAP * heights.sum(-1))
        return torch.maximum(gaps, GAP * energy), least

    def _along(self, inner: Tensor, distances: Tensor, pull: Tensor) -> Tensor:
        r"""Return what Newton adds to the weighted mean, as multiples of the deviations.

        With u the unit vectors of members outside of their reach, the Hessian is
        :math:`\sum_i w_i I - \sum_{\text{outside}} w_i u_i u_i^\top`, so that a system of N
        equations remains.
        """
        total = pull.sum(-1, keepdim=True)
        outside = distances > self.reach
        root = torch.where(outside, pull.sqrt() / distances, 0.0)
        diagonal = (1.0 + RIDGE) * total.unsqueeze(-1) * self.eye
        matrix = diagonal - root.unsqueeze(-1) * inner * root.unsqueeze(-2)
        right = root * (inner @ pull.unsqueeze(-1)).squeeze(-1)
        # A matrix that is singular after all gives numbers that are not finite, and no step.
        solution: Tensor = torch.linalg.solve_ex(matrix, right.unsqueeze(-1)).result
        return root * solution.squeeze(-1)

    def _best(self, own: Tensor, newton: Tensor, mean: Tensor) -> Tensor:
        """Return the step to the lowest point: a fraction of Newton's, or the mean's."""

        def height(step: Tensor) -> Tensor:
            return self._heights(_norms(own - step.unsqueeze(1), self.gram), self.reach).sum(-1)

        lowest, best = height(mean), mean
        is_close = height(newton) <= CLOSE * lowest
        if not bool(is_close.all()):
            for half in range(1, HALVES + 1):
                fraction = 0.5**half * newton
                own_height = height(fraction)
                is_lower = own_height < lowest
                lowest = torch.where(is_lower, own_height, lowest)
                best = torch.where(is_lower.unsqueeze(-1), fraction, best)
        return torch.where(is_close.unsqueeze(-1), newton, best)


def _norms(rows: Tensor, gram: Tensor) -> Tensor:
    """Return the norms of linear combinations of the members."""
    return ((rows @ gram) * rows).sum(-1).clamp_min(0.0).sqrt()
