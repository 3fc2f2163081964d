"""Permute tensors whose dimensions are sums of products of axes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import LongTensor, Tensor

from lit_share.alignment._blocks import Block, index_vector

Permutations = Mapping[int, LongTensor]
Dimensions = tuple[tuple[Block[int], ...], ...]
Parents = Mapping[int, int]


def permute_tensor(
    tensor: Tensor, dimensions: Dimensions, permutations: Permutations, parents: Parents
) -> Tensor:
    r"""Return a new tensor whose units are permuted.

    With an axis d within an axis h, whose permutation is a matrix,

    .. math:: W'_{h d} = W_{p(h)\, q_h(d)}

    Args:
        tensor: The tensor.
        dimensions: The blocks of each dimension.
        permutations: For each axis, a vector p, or a matrix q if it is within another one.
        parents: The axis that an axis is within.

    Returns:
        A tensor with memory of its own.
    """
    moved = tensor
    permutations = {axis: order.cpu() for axis, order in permutations.items()}  # type: ignore[misc]
    common = {axis: order for axis, order in permutations.items() if order.ndim == 1}
    for axis, order in permutations.items():
        if order.ndim == 2:
            parent = parents[axis]
            # Rows of q are for new units, and the parent has not moved yet.
            if parent in common:
                order = order[common[parent].argsort()]  # type: ignore[assignment]
            moved = _permute_within(moved, dimensions, axis, parent, order)
    for dim, blocks in enumerate(dimensions):
        if any(axis in common for block in blocks for axis in block.axes):
            moved = moved.index_select(dim, index_vector(blocks, common).to(tensor.device))
    if moved is tensor:
        return tensor.clone()
    return moved


def _permute_within(
    tensor: Tensor, dimensions: Dimensions, axis: int, parent: int, order: Tensor
) -> Tensor:
    """Return a tensor whose slices along the parent are permuted, each in its own way."""
    for dim, blocks in enumerate(dimensions):
        if not any(axis in block.axes for block in blocks):
            continue
        if all(parent in block.axes for block in blocks if axis in block.axes):
            index = _joint_index(blocks, axis, parent, order)
            tensor = tensor.index_select(dim, index.to(tensor.device))
            continue
        outer = next(
            d for d, found in enumerate(dimensions) if all(parent in block.axes for block in found)
        )
        slices = torch.empty_like(tensor)
        for unit, own in enumerate(order):
            where = _positions_of(dimensions[outer], parent, unit).to(tensor.device)
            index = index_vector(blocks, {axis: own}).to(tensor.device)
            slices.index_copy_(
                outer, where, tensor.index_select(outer, where).index_select(dim, index)
            )
        tensor = slices
    return tensor


def _joint_index(blocks: tuple[Block[int], ...], axis: int, parent: int, order: Tensor) -> Tensor:
    """Return the index vector of a dimension that has both the axis and its parent."""
    index = index_vector(blocks, {})
    for block in blocks:
        if axis not in block.axes:
            continue
        positions = block.positions()
        inner, outer = block.axes.index(axis), block.axes.index(parent)
        moved = [
            units.unsqueeze(outer).index_select(inner, own)
            for units, own in zip(positions.unbind(outer), order, strict=True)
        ]
        index[positions.flatten()] = torch.cat(moved, outer).flatten()
    return index


def _positions_of(blocks: tuple[Block[int], ...], axis: int, unit: int) -> Tensor:
    """Return the positions in a dimension that belong to one unit of an axis."""
    found = [block.positions().select(block.axes.index(axis), unit).flatten() for block in blocks]
    return torch.cat(found)


def overwrite(tensor: Tensor, moved: Tensor) -> None:
    """Set a tensor to a permutation of itself, also if it is expanded."""
    for dim, stride in enumerate(tensor.stride()):
        # One number is all of such a dimension, and may be written to only once.
        if stride == 0 and tensor.shape[dim] > 1:
            tensor, moved = tensor.narrow(dim, 0, 1), moved.narrow(dim, 0, 1)
    tensor.copy_(moved)


def invert(permutations: Permutations, parents: Parents) -> dict[int, LongTensor]:
    """Return permutations that undo these: for vectors, the positions to which units came."""
    inverse: dict[int, LongTensor] = {}
    for axis, order in permutations.items():
        undone = order.argsort(-1)
        parent = permutations.get(parents.get(axis, -1))
        if order.ndim == 2 and parent is not None:
            undone = undone[parent.argsort()]
        inverse[axis] = undone  # type: ignore[assignment]
    return inverse


def compose(first: Permutations, then: Permutations, parents: Parents) -> dict[int, LongTensor]:
    """Return permutations that do the same as two, one after the other."""
    composed: dict[int, LongTensor] = {}
    for axis in sorted({*first, *then}):
        before, after = first.get(axis), then.get(axis)
        if before is not None and before.ndim == 2:
            parent = then.get(parents[axis])
            # The unit that is at position i in the end was at parent[i] in between.
            before = before if parent is None else before[parent]  # type: ignore[assignment]
        if before is None or after is None:
            composed[axis] = before if after is None else after  # type: ignore[assignment]
            continue
        rows = torch.broadcast_shapes(before.shape, after.shape)
        both = before.expand(rows).gather(-1, after.expand(rows))
        composed[axis] = both  # type: ignore[assignment]
    return composed
