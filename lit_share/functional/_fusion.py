r"""Compute proximal steps on graphs: members that edges make equal in clusters.

.. math::
    \arg\min_V \sum_i \frac{1}{2 t_i} \lVert V_i - W_i \rVert^2
    + \sum_{e = (i, j)} a_e \lVert V_i - V_j \rVert

for each group. The solution is :math:`V = C W` with an N × N matrix C, so it is computed from the
members' Gram matrix, whatever the size of the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_share.functional._duals import Clusters, solve_duals, solve_numbers
from lit_share.functional._edges import Graph
from lit_share.functional._groups import Groups
from lit_share.functional._isotonic import fuse_all_pairs
from lit_share.functional._tie_tensors import float64_on

# Numbers in float64 that a temporary tensor may have, so that it stays in the cache of a host.
_BLOCK, _BLOCK_ON_DEVICE = 2**17, 2**23


def prox_on_graph(
    members: Sequence[Tensor],
    graph: Graph,
    steps: Sequence[float],
    grouping: Groups,
    is_squared: bool,
    gram: Tensor | None = None,
) -> list[Tensor]:
    """Take the proximal step of members on a graph.

    Args:
        members: N tensors in the dtype of computation.
        graph: The edges between them.
        steps: The step of each member, ≥ 0; members of step 0 do not move.
        grouping: A grouping of elements.
        is_squared: Whether the norm is the squared one; else it is the l1 norm.
        gram: What `gram_matrices` returns, summed over all shards; computed if ``None``.

    Returns:
        New tensors like the members. Those that the l1 norm makes equal are equal bit by bit.
    """
    if is_squared:
        return _prox_of_squared(members, graph, steps)
    graph = graph.moving(steps)
    if members[0].numel() == 0 or not graph.pairs:
        return [w.clone() for w in members]
    if grouping.is_elementwise(members[0].ndim):
        if graph.is_uniform(len(members)) and min(steps) == max(steps):
            return fuse_all_pairs(members, steps[0] * graph.weights[0])
        return solve_numbers(members, graph, steps)
    if gram is None:
        gram = gram_matrices(members, grouping)
    return combine(members, solve_duals(gram.flatten(0, -3), graph, steps), grouping)


def gram_matrices(members: Sequence[Tensor], grouping: Groups) -> Tensor:
    """Return the inner products of W_i − W_1, in float64, for each group.

    The matrices of all shards sum to those of the full members.

    Returns:
        Tensor of shape ``(groups, N, N)``.
    """
    first = members[0]
    rows = [_rows(w, grouping) for w in members]
    groups = len(rows[0])
    wide = float64_on(first.device)
    gram = torch.zeros(groups, len(members), len(members), dtype=wide, device=first.device)
    for own, inside in _blocks(rows):
        block = [row[own, inside].to(wide) for row in rows]
        offsets = torch.stack([w - block[0] for w in block], dim=1)
        gram[own] += offsets @ offsets.mT
    return gram


def from_near_member(gram: Tensor, members: Sequence[Tensor], grouping: Groups) -> Tensor:
    """Return Gram matrices of differences from another member, if the first is far from all others.

    In differences from a member that is 10⁵ times farther away than the others are from each other,
    their own distances would be rounding errors.

    Args:
        gram: What `gram_matrices` returns.
        members: N full tensors.
        grouping: A grouping of elements.
    """
    count = len(members)
    if count < 3 or gram.numel() == 0:
        return gram
    others = gram.flatten(0, -3)[:, 1:, 1:]
    squares = others.diagonal(dim1=-2, dim2=-1)
    between = squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2.0 * others
    between.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = between.flatten(1).min(-1)
    is_far = squares.amin(-1) > 1e10 * nearest.values
    if not bool(is_far.any()):
        return gram
    first = 1 + int(nearest.indices[is_far][0]) // (count - 1)
    order = list(range(count))
    order[0], order[first] = first, 0
    swapped = gram_matrices([members[i] for i in order], grouping)
    return swapped[..., order, :][..., order]


def combine(members: Sequence[Tensor], clusters: Clusters, grouping: Groups) -> list[Tensor]:
    """Return the members after a step that is given by coefficients, for each group."""
    shape, device = members[0].shape, members[0].device
    rows = [_rows(w, grouping) for w in members]
    moved = [torch.empty_like(row) for row in rows]
    # Not float32, in which users may have chosen products of fewer digits, such as TF32.
    moves = clusters.moves.to(device, float64_on(device))
    leaders = clusters.leaders.to(device).unsqueeze(-1)
    for own, inside in _blocks(rows):
        block = torch.stack([row[own, inside] for row in rows], dim=1)
        offsets = (block - block[:, :1]).to(moves.dtype)
        block += (moves[own] @ offsets).to(block.dtype)
        # Members of a cluster take the numbers of one of them, so that they are equal bit by bit.
        for new, v in zip(moved, block.take_along_dim(leaders[own], dim=1).unbind(1), strict=True):
            new[own, inside] = v
    return [_from_rows(v, shape, grouping) for v in moved]


def mix(members: Sequence[Tensor], coefficients: Tensor, grouping: Groups) -> list[Tensor]:
    """Return linear combinations of the members, for each group.

    Args:
        members: N tensors.
        coefficients: Float64 tensor of shape ``(groups, N, N)``, whose rows sum to 0.
        grouping: A grouping of elements.
    """
    shape, device = members[0].shape, members[0].device
    rows = [_rows(w, grouping) for w in members]
    mixed = [torch.empty_like(row) for row in rows]
    coefficients = coefficients.to(device, float64_on(device))
    for own, inside in _blocks(rows):
        offsets = torch.stack([row[own, inside] - rows[0][own, inside] for row in rows], dim=1)
        block = coefficients[own] @ offsets.to(coefficients.dtype)
        for new, v in zip(mixed, block.unbind(1), strict=True):
            new[own, inside] = v.to(new.dtype)
    return [_from_rows(v, shape, grouping) for v in mixed]


def _blocks(rows: Sequence[Tensor]) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of groups and of their elements, of which temporary tensors are small."""
    groups, width = rows[0].shape
    numbers = _BLOCK_ON_DEVICE
    if rows[0].is_cpu:
        numbers = _BLOCK
    size = max(1, numbers // len(rows))
    height = max(1, size // max(1, width))
    for begin in range(0, groups, height):
        for start in range(0, width, size):
            yield slice(begin, begin + height), slice(start, start + size)


def _prox_of_squared(
    members: Sequence[Tensor], graph: Graph, steps: Sequence[float]
) -> list[Tensor]:
    r"""Return :math:`(I + \operatorname{diag}(t) L)^{-1} W`."""
    count = len(members)
    system = torch.eye(count, dtype=torch.float64)
    system += torch.tensor(steps, dtype=torch.float64).unsqueeze(1) * graph.laplacian(count)
    # Rows of the inverse sum to 1, so differences from the member itself have its other entries.
    inverse: list[list[float]] = torch.linalg.inv(system).tolist()
    moved = []
    for i, row in enumerate(inverse):
        total = members[i].clone()
        for j, coefficient in enumerate(row):
            if j != i and coefficient != 0.0:
                total.add_(members[j] - members[i], alpha=coefficient)
        moved.append(total)
    return moved


def _rows(member: Tensor, grouping: Groups) -> Tensor:
    """Return a member as a matrix with a row for each group."""
    kept = grouping.kept(member.ndim)
    assert kept is not None
    inside = [dim for dim in range(member.ndim) if dim not in kept]
    ordered = member.permute(*kept, *inside)
    groups = ordered.shape[: len(kept)].numel()
    return ordered.reshape(groups, member.numel() // max(1, groups))


def _from_rows(rows: Tensor, shape: torch.Size, grouping: Groups) -> Tensor:
    """Return the member of a matrix of `_rows`."""
    kept = grouping.kept(len(shape))
    assert kept is not None
    order = [*kept, *(dim for dim in range(len(shape)) if dim not in kept)]
    ordered = rows.reshape([shape[dim] for dim in order])
    return ordered.permute([order.index(dim) for dim in range(len(shape))]).contiguous()
