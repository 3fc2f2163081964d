"""Dimensions as sums of products of leaves, and their index vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import prod
from typing import Generic, TypeVar

import torch
from torch import LongTensor, Tensor

from lit_share.alignment._axes import Axis, is_free, parts_of, resolve

Key = TypeVar("Key")


@dataclass(frozen=True)
class Block(Generic[Key]):
    """Units of a dimension that are a product of axes.

    Attributes:
        start: The position of the first unit.
        sizes: The size of each factor.
        strides: How far apart two units are that differ by one in a factor.
        axes: The free axis of each factor, or ``None`` for factors that stay in order.
    """

    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    axes: tuple[Key | None, ...]

    def positions(self) -> Tensor:
        """Return the positions of the units in the dimension, of the shape ``sizes``."""
        where = torch.tensor(self.start, device="cpu")
        for size, stride in zip(self.sizes, self.strides, strict=True):
            where = where[..., None] + stride * torch.arange(size, device="cpu")
        return where


def blocks(axis: Axis) -> list[Block[Axis]]:
    """Return an axis as a sum of products of its free leaves and of runs that stay in order."""
    axis = resolve(axis)
    if not is_free(axis):
        return [Block(0, (axis.size,), (1,), (None,))]
    if axis.kind == "leaf":
        return [Block(0, (axis.size,), (1,), (axis,))]
    parts = parts_of(axis, axis.kind)
    found: list[Block[Axis]] = []
    if axis.kind == "sum":
        starts = accumulate((part.size for part in parts), initial=0)
        for start, part in zip(starts, parts, strict=False):
            found += [replace(block, start=start + block.start) for block in blocks(part)]
        return found
    steps = [prod(part.size for part in parts[i + 1 :]) for i in range(len(parts))]
    for combination in product(*map(blocks, parts)):
        start = sum(step * block.start for step, block in zip(steps, combination, strict=True))
        sizes: list[int] = []
        strides: list[int] = []
        axes: list[Axis | None] = []
        for step, block in zip(steps, combination, strict=True):
            sizes += block.sizes
            strides += [step * stride for stride in block.strides]
            axes += block.axes
        found.append(_merge_fixed(Block(start, tuple(sizes), tuple(strides), tuple(axes))))
    return found


def _merge_fixed(block: Block[Axis]) -> Block[Axis]:
    """Return a block with one factor in place of neighbours that stay in order."""
    factors: list[tuple[int, int, Axis | None]] = []
    for size, stride, axis in zip(block.sizes, block.strides, block.axes, strict=True):
        if factors and axis is None and factors[-1][2] is None:
            before, step, _ = factors[-1]
            if step == size * stride:
                factors[-1] = (before * size, stride, None)
                continue
        factors.append((size, stride, axis))
    sizes, strides, axes = zip(*factors, strict=True)
    return Block(block.start, sizes, strides, axes)


def indices(axis: Axis, permutations: Mapping[Axis, LongTensor]) -> LongTensor:
    """Return the index vector of an axis, given permutations of its leaves.

    With the index vectors p of sizes m and q of size n, that of a product is p_i · n + q_j at
    i · n + j, and that of a sum is p followed by m + q.

    Args:
        axis: An axis.
        permutations: For leaves of the axis, which unit comes to each position. Leaves that are
            not named stay in order.

    Returns:
        A permutation of the units of the axis.
    """
    return index_vector(blocks(axis), permutations)


def index_vector(
    dimension: Sequence[Block[Key]], permutations: Mapping[Key, LongTensor]
) -> LongTensor:
    """Return `indices` of a dimension that is given by its blocks."""
    index = torch.arange(sum(prod(block.sizes) for block in dimension), device="cpu")
    for block in dimension:
        positions = moved = block.positions()
        for factor, axis in enumerate(block.axes):
            if axis is not None and axis in permutations:
                moved = moved.index_select(factor, permutations[axis])
        index[positions.flatten()] = moved.flatten()
    return index  # type: ignore[return-value]
