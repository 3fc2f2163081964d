r"""Solve for forces along edges: block coordinate ascent on the dual of a step on a graph.

Each edge e = (i, j) pulls its members by a force :math:`U_e` of norm at most its weight
:math:`a_e`, which moves members of step :math:`t_i` to

.. math:: V_i = W_i - t_i \Big(\sum_{e = (i, \cdot)} U_e - \sum_{e = (\cdot, i)} U_e\Big)

Given the other forces, the best force of an edge is
:math:`U_e + (V_i - V_j) / (t_i + t_j)`, projected onto the ball of radius :math:`a_e`. The edges
take turns until the duality gap bounds the distance from the minimiser:

.. math::
    \sum_i \frac{1}{2 t_i} \lVert V_i - V_i^* \rVert^2 \le
    \sum_e \big(a_e \lVert V_i - V_j \rVert - \langle U_e, V_i - V_j \rangle\big)

Steps start from forces that are exact where all members become equal, if all pairs are edges and
all steps are the same. They take 1 to 15 turns in typical ties, so that none are kept from step to
step, and a resumed run takes the same steps.

The compiled loop sets the forces of clusters that have all their edges to known values in its first
turns, which halves the time.

Forces of a cluster are not unique. So members are equal if the bound allows it: if the distance
along an edge is at most the sum of both members' bounds. Each cluster gets the mean of its members,
weighted by 1/t, which forces within the cluster do not move; a member of step 0 stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_share.functional._edges import Graph
from lit_share.functional._fused import compile_loop, run_ranges
from lit_share.functional._tie_tensors import float64_on

# Gaps relative to Σ ‖V_i − W_i‖² / (2 t_i), so that the distance from the minimiser is at most 1e-7
# of the distance moved, and 1e-9 for numbers. Smaller gaps are rounding errors.
GAP, GAP_OF_NUMBERS = 1e-14, 1e-18
# The gap is a difference of sums like the penalty, whose rounding errors are as large as this.
LEAST_GAP = 16.0 * torch.finfo(torch.float64).eps
# Moves smaller than this part of the members' differences have converged, whatever the rounding
# errors of the gap, which are larger where some members are much nearer to each other than to the
# first.
LEAST_CHANGE = 1e-12
# Turns of all edges, per member. A chain of 20 members has needed 40 per member.
MOST_TURNS = 200
# Elements of a block of numbers, whose temporaries stay in the cache.
_NUMBERS = 2**15
# A thread solves at least so many coefficients of Gram matrices, or numbers.
_LEAST_PER_THREAD = 2**12


@dataclass(frozen=True)
class Clusters:
    """The step of each group, as coefficients of its members.

    Attributes:
        moves: The matrix C − I of each group, of shape ``(groups, N, N)``, in float64 on the host.
        leaders: For each group and member, the member whose new values it takes.
    """

    moves: Tensor
    leaders: Tensor


def solve_duals(gram: Tensor, graph: Graph, steps: Sequence[float]) -> Clusters:
    """Solve for the step of each group.

    Args:
        gram: The inner products of the members' differences from one of them, of shape
            ``(groups, N, N)``.
        graph: The edges between members, at least one, all of `Graph.moving`.
        steps: The step of each member.
    """
    gram = gram.to("cpu", torch.float64).contiguous()
    loop = _compiled("solve_duals", gram.dtype, gram.ndim)
    if loop is None:
        return solve_plainly(gram, graph, steps)
    groups, count, _ = gram.shape
    moves = np.empty((groups, count, count))
    leaders = np.empty((groups, count), np.int64)
    arrays = (gram.numpy(), *_arrays(graph, steps), moves, leaders)
    least = max(1, _LEAST_PER_THREAD // count**2)
    run_ranges(lambda begin, end: loop(*arrays, begin, end), groups, least)
    return Clusters(torch.from_numpy(moves), torch.from_numpy(leaders))


def solve_numbers(members: Sequence[Tensor], graph: Graph, steps: Sequence[float]) -> list[Tensor]:
    """Take the step of members whose groups are single elements.

    The clusters and the order of the numbers give the result without an error of the ascent.

    Args:
        members: N tensors of one shape.
        graph: The edges between them, at least one, all of `Graph.moving`.
        steps: The step of each member.

    Returns:
        New tensors like the members.
    """
    stacked = torch.stack([w.flatten() for w in members])
    loop = None
    if stacked.is_cpu and stacked.dtype in (torch.float32, torch.float64):
        loop = _compiled("solve_numbers", stacked.dtype, stacked.ndim)
    if loop is None:
        blocks = []
        for block in stacked.split(_NUMBERS, 1):
            own = block.to(float64_on(block.device))
            blocks.append(solve_numbers_plainly(own, graph, steps).to(block))
        moved = torch.cat(blocks, dim=1)
    else:
        moved = torch.empty_like(stacked)
        arrays = (stacked.numpy(), *_arrays(graph, steps), moved.numpy())
        run_ranges(lambda a, b: loop(*arrays, a, b), stacked.shape[1], _LEAST_PER_THREAD)
    return [v.view(members[0].shape) for v in moved.unbind()]


@cache
def _compiled(name: str, dtype: torch.dtype, ndim: int) -> Callable[..., None] | None:
    """Return a compiled loop for tensors like these; ``None`` without Numba."""
    array = torch.empty((0,) * ndim, dtype=dtype).numpy()
    edges, numbers = np.empty(0, np.int64), np.empty(0)
    outputs: tuple[Any, ...] = (array,)
    if ndim == 3:
        outputs = (np.empty((0, 0, 0)), np.empty((0, 0), np.int64))
    arguments = (array, edges, edges, numbers, numbers, *outputs, 0, 0)
    loop: Callable[..., None] | None = compile_loop(name, *arguments)
    return loop


def _arrays(graph: Graph, steps: Sequence[float]) -> tuple[Any, ...]:
    pairs = np.array(graph.pairs, np.int64)
    weights = np.array(graph.weights, np.float64)
    return pairs[:, 0].copy(), pairs[:, 1].copy(), weights, np.array(steps, np.float64)


def solve_plainly(gram: Tensor, graph: Graph, steps: Sequence[float]) -> Clusters:
    """Solve for the step of each group in torch: the specification of the compiled loop."""
    groups, count, _ = gram.shape
    # Rows of coefficients stand for tensors, whose inner products the Gram matrix gives.
    start = torch.eye(count, dtype=gram.dtype).unsqueeze(1).expand(count, groups, count)

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return ((x.unsqueeze(-2) @ gram).squeeze(-2) * y).sum(-1)

    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    ascent = _Ascent(start, inner, graph, steps)
    ascent.run(GAP)
    near = ascent.near(noise=4.0 * count * torch.finfo(gram.dtype).eps * largest)
    moved, leaders = ascent.fused(near)
    return Clusters((moved - _taken(start, leaders)).movedim(0, 1), leaders.T)


def solve_numbers_plainly(numbers: Tensor, graph: Graph, steps: Sequence[float]) -> Tensor:
    """Solve for the step of numbers in torch: the specification of the compiled loop.

    Args:
        numbers: The numbers of N members, of shape ``(N, n)``, in float64.
        graph: The edges between members.
        steps: The step of each member.
    """
    # Offsets keep the digits in which the members differ.
    offsets = (numbers - numbers[:1]).unsqueeze(-1)
    ascent = _Ascent(offsets, lambda x, y: (x * y).sum(-1), graph, steps)
    ascent.run(GAP_OF_NUMBERS)
    largest = offsets.abs().amax((0, 2))
    noise = (64.0 * torch.finfo(numbers.dtype).eps * largest).square()
    near = ascent.near(noise)
    ascent.saturate(near)
    moved, leaders = ascent.fused(near)
    return numbers.take_along_dim(leaders, 0) + (moved - _taken(offsets, leaders)).squeeze(-1)


class _Ascent:
    """Forces along edges, and the members that they move.

    Args:
        start: The members before the step, of shape ``(N, groups, K)``.
        inner: Return the inner products of tensors of shape ``(..., groups, K)``.
        graph: The edges between members.
        steps: The step of each member.
    """

    def __init__(
        self,
        start: Tensor,
        inner: Callable[[Tensor, Tensor], Tensor],
        graph: Graph,
        steps: Sequence[float],
    ) -> None:
        self.start, self.inner, self.steps = start, inner, steps
        self.members = start.clone()
        self.edges = [(*pair, a) for pair, a in zip(graph.pairs, graph.weights, strict=True)]
        self.forces = start.new_zeros((len(self.edges), *start.shape[1:]))
        self.gaps = start.new_zeros(start.shape[1])
        for e, (i, j, _) in enumerate(self.edges):
            self._pull(e, (start[i] - start[j]) / sum(steps))

    def run(self, tolerance: float) -> None:
        """Let the edges take turns until all gaps are below the tolerance."""
        for _ in range(MOST_TURNS * len(self.start)):
            largest = 0.0
            for e, (i, j, _) in enumerate(self.edges):
                total = self.steps[i] + self.steps[j]
                force = self.forces[e] + (self.members[i] - self.members[j]) / total
                largest = max(largest, total * self._pull(e, force))
            differences = self._differences()
            weights = self._weights()
            values = (weights * self._norm(differences)).sum(0)
            self.gaps = values - self.inner(self.forces, differences).sum(0)
            energy = self.start.new_zeros(self.start.shape[1])
            for own, begin, t in zip(self.members, self.start, self.steps, strict=True):
                if t > 0.0:
                    energy += self.inner(own - begin, own - begin) / (2.0 * t)
            scale = float(self.start.abs().max())
            least = torch.maximum(tolerance * energy, LEAST_GAP * values)
            is_solved = bool((self.gaps <= least).all())
            self.gaps = torch.maximum(self.gaps, tolerance * energy)
            if is_solved or largest <= LEAST_CHANGE * scale:
                break

    def near(self, noise: Tensor) -> Tensor:
        """Return whether the members of each edge are equal, for all that the gaps say.

        Args:
            noise: The squared rounding error of the norm of a difference, for each group.
        """
        differences = self._differences()
        roots = [self.steps[i] ** 0.5 + self.steps[j] ** 0.5 for i, j, _ in self.edges]
        bound = self.start.new_tensor(roots).unsqueeze(1) * (2.0 * self.gaps).sqrt()
        return self._norm(differences) <= bound + noise.sqrt()

    def saturate(self, near: Tensor) -> None:
        """Give edges between different numbers their full force, and others none."""
        signs = self._differences().sign().masked_fill(near.unsqueeze(-1), 0.0)
        self.members = self.start.clone()
        for sign, (i, j, a) in zip(signs, self.edges, strict=True):
            self.members[i] -= self.steps[i] * a * sign
            self.members[j] += self.steps[j] * a * sign

    def fused(self, near: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members with a common value for each cluster, and each member's leader."""
        count = len(self.start)
        # The smallest label wins, and a member of step 0 has a smaller one than those that move.
        labels = [i + count * (t > 0.0) for i, t in enumerate(self.steps)]
        leaders = torch.tensor(labels, device=self.start.device).unsqueeze(1)
        leaders = leaders.repeat(1, self.start.shape[1])
        # A path within a cluster has at most N − 1 edges.
        for _ in range(count):
            for own, (i, j, _) in zip(near, self.edges, strict=True):
                least = torch.minimum(leaders[i], leaders[j])
                leaders[i] = torch.where(own, least, leaders[i])
                leaders[j] = torch.where(own, least, leaders[j])
        leaders %= count
        weights = self.start.new_zeros(count, 1, 1)
        for i, t in enumerate(self.steps):
            if t == 0.0:
                leaders[i] = i
            else:
                weights[i] = 1.0 / t
        weights = weights.expand(count, self.start.shape[1], 1)
        index = leaders.unsqueeze(-1)
        total = torch.zeros_like(weights).scatter_add_(0, index, weights)
        sums = torch.zeros_like(self.members)
        sums.scatter_add_(0, index.expand_as(sums), weights * self.members)
        means = sums / torch.where(total > 0.0, total, 1.0)
        for i, t in enumerate(self.steps):
            if t == 0.0:
                means[i] = self.start[i]
        return _taken(means, leaders), leaders

    def _pull(self, e: int, force: Tensor) -> float:
        """Set the force of an edge, shortened to its weight; return the largest change."""
        i, j, weight = self.edges[e]
        norm = self._norm(force)
        force = force * torch.where(norm > weight, weight / norm, 1.0).unsqueeze(-1)
        change = force - self.forces[e]
        self.forces[e] = force
        self.members[i] -= self.steps[i] * change
        self.members[j] += self.steps[j] * change
        return float(change.abs().max())

    def _norm(self, x: Tensor) -> Tensor:
        return self.inner(x, x).clamp_min(0.0).sqrt()

    def _differences(self) -> Tensor:
        return torch.stack([self.members[i] - self.members[j] for i, j, _ in self.edges])

    def _weights(self) -> Tensor:
        return self.start.new_tensor([a for _, _, a in self.edges]).unsqueeze(1)


def _taken(rows: Tensor, leaders: Tensor) -> Tensor:
    return rows.take_along_dim(leaders.unsqueeze(-1), 0)
