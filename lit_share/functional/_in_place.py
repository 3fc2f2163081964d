r"""Gradients and proximal steps written over contiguous numbers on the host, block by block.

All operations are done on one block before the next, and what lies between them goes to memory that is kept: so it
stays in the cache, and nothing of the size of the members is made. With T the step of the norm (of a pair, that of both
members together) and d a deviation, or the difference of a pair,

.. math::
    s = d \cdot \frac{(n_g - T)_+}{n_g}, \qquad m = d - s

is what is left of it and what is taken away; of an element m is :math:`\operatorname{clip}(d, -T, T)`. The result is
c + s for a fixed center, and of a pair :math:`V_B = W_B + \frac{t_B}{T} m` and :math:`V_A = V_B + s`. Where s = 0 it is
exactly the center, or exactly equal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lit_share.functional._centers import CENTERS, CenterName

# Elements of a block.
BLOCK = 2**18

# To make room for so few elements takes less time than to find it.
_SMALL = 2**13

# Takes d, T and room for m; leaves s in the place of d.
Shrink = Callable[[Tensor, float, Tensor], None]


class _Rooms(threading.local):
    """Memory for blocks of each dtype, which is used again and again."""

    def __init__(self) -> None:
        self.of: dict[tuple[torch.dtype, int], Tensor] = {}

    def like(self, tensor: Tensor, number: int = 0) -> Tensor:
        """Room for what is computed of a block; rooms of different numbers are different memory."""
        size = tensor.numel()
        if size <= _SMALL:
            return torch.empty_like(tensor)
        kept = self.of.get((tensor.dtype, number))
        if kept is None or kept.numel() < size:
            kept = self.of[tensor.dtype, number] = torch.empty(size, dtype=tensor.dtype)
        return kept[:size].view(tensor.shape)


_rooms = _Rooms()


def is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether these are contiguous tensors on the host, of one shape and one dtype that needs no wider one."""
    first = next(tensor for tensor in tensors if tensor is not None)
    dtype, shape = first.dtype, first.shape
    if dtype not in (torch.float32, torch.float64):
        return False
    for t in tensors:  # a loop, as this is asked for every tie in every step
        if t is not None and not (t.is_cpu and t.dtype == dtype and t.shape == shape and t.is_contiguous()):
            return False
    return True


def add_pulls_(
    center: CenterName,
    members: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    start: Sequence[Tensor] | None,
    strength: float,
) -> None:
    """Add the gradient of ``strength`` times the squared penalty of one tie: strength · s² · (W_i − c_i)."""
    for block in _blocks([*members, *grads, *(start or ())]):
        values = [tensor for tensor in (*block[: len(members)], *block[2 * len(members) :]) if tensor is not None]
        for i, factor, deviation in _deviations(center, values[: len(members)], values[len(members) :]):
            if (g := block[len(members) + i]) is not None:
                g.add_(deviation, alpha=factor * strength)


def _deviations(
    center: CenterName, w: Sequence[Tensor], origin: Sequence[Tensor]
) -> Iterator[tuple[int, float, Tensor]]:
    """For each member that is pulled: its number, and a factor and a tensor whose product is s² · (W_i − c_i)."""
    if center == "zero":
        yield from ((i, 1.0, tensor) for i, tensor in enumerate(w))
        return
    d = _rooms.like(w[0])
    if center == "start":
        for i, tensor in enumerate(w):
            yield i, 1.0, torch.sub(tensor, origin[i], out=d)
    elif center == "first":
        for i, tensor in enumerate(w[1:], start=1):
            yield i, 1.0, torch.sub(tensor, w[0], out=d)
    elif len(w) == 2:
        torch.sub(w[0], w[1], out=d)
        yield 0, 1.0, d
        yield 1, -1.0, d
    else:
        # Counted from the first member, as `mean` is.
        offset = _rooms.like(w[0], 1).zero_()
        for tensor in w[1:]:
            offset.add_(torch.sub(tensor, w[0], out=d))
        offset.div_(len(w))
        for i, tensor in enumerate(w):
            yield i, float(len(w)), torch.sub(tensor, w[0], out=d).sub_(offset)


def can_shrink(center: CenterName, members: int) -> bool:
    """Whether so many members have one deviation, or the difference of a pair, of which groups are made."""
    return members == (2 if CENTERS[center].min_members == 2 else 1)


def shrink_(
    center: CenterName,
    members: Sequence[Tensor],
    start: Sequence[Tensor] | None,
    steps: Sequence[float],
    by_rows: bool,
) -> None:
    """The proximal step of the l1 penalty of one tie, with one step for each member.

    Groups are elements, or rows along dim 0. Members whose step is 0 are not written to.
    """
    shrink: Shrink = _shrink_rows if by_rows else _shrink_elements
    for block in _blocks([*members, *(start or ())], by_rows):
        w = [tensor for tensor in block if tensor is not None]
        m = _rooms.like(w[0])
        if center == "mean":
            _shrink_pair(shrink, w, steps, m)
        elif steps[-1] > 0.0 and center == "zero":
            shrink(w[0], steps[0], m)
        elif steps[-1] > 0.0:
            moving, origin = w if center == "start" else reversed(w)
            d = torch.sub(moving, origin, out=_rooms.like(moving, 1))
            shrink(d, steps[-1], m)
            torch.add(origin, d, out=moving)


def _shrink_pair(shrink: Shrink, pair: Sequence[Tensor], steps: Sequence[float], m: Tensor) -> None:
    (a, b), (t_a, t_b) = pair, steps
    if t_a + t_b == 0.0:
        return
    d = torch.sub(a, b, out=_rooms.like(a, 1))
    shrink(d, t_a + t_b, m)
    if t_b > 0.0:
        b.add_(m, alpha=t_b / (t_a + t_b)) if t_a > 0.0 else torch.sub(a, d, out=b)
    if t_a > 0.0:
        torch.add(b, d, out=a)


def _shrink_elements(d: Tensor, step: float, m: Tensor) -> None:
    d.sub_(torch.clamp(d, -step, step, out=m))


def _shrink_rows(d: Tensor, step: float, m: Tensor) -> None:
    n = torch.linalg.vector_norm(d.flatten(1), dim=1).view(-1, *[1] * (d.ndim - 1)) if d.ndim > 1 else d.abs()
    taken = torch.where(n > step, step / n, 1.0)  # of NaN everything, which leaves NaN
    d.sub_(torch.mul(d, taken, out=m))


def squares_over_rows(matrix: Tensor) -> Tensor | None:
    """The sum of squares along dim 0 in float64, of the shape of a row; `None` if a square is not finite."""
    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for (rows,) in _blocks([matrix], by_rows=True):
        assert rows is not None
        total += torch.mul(rows, rows, out=_rooms.like(rows)).sum(0)
    return total if np.isfinite(total.numpy()).all() else None


def _blocks(tensors: Sequence[Tensor | None], by_rows: bool = False) -> Iterator[list[Tensor | None]]:
    """The same part of each tensor, of at most `BLOCK` elements, or of at least one row along dim 0."""
    first = next(tensor for tensor in tensors if tensor is not None)
    if first.numel() <= BLOCK:
        yield list(tensors)
        return
    size = max(1, BLOCK * len(first) // first.numel()) if by_rows else BLOCK
    parts = [None if t is None else (t if by_rows else t.view(-1)).split(size) for t in tensors]
    for i in range(len(next(part for part in parts if part is not None))):
        yield [None if part is None else part[i] for part in parts]
