r"""Gradients and proximal steps written over contiguous numbers on the host, block by block.

All operations are done on one block before the next, and what lies between them goes to memory that is kept: so it
stays in the cache, and nothing of the size of the members is made. With T the step of the norm (of a pair, that of both
members together) and d a deviation, or the difference of a pair,

.. math::
    s = d \cdot \frac{(n_g - T)_+}{n_g}, \qquad m = d - s

is what is left of it and what is taken away; of an element m is :math:`\operatorname{clip}(d, -T, T)`, and of a row a
share of d. The result is c + s for a fixed center, and of a pair :math:`V_B = W_B + \frac{t_B}{T} m` and
:math:`V_A = V_B + s`. Where s = 0 it is exactly the center, or exactly equal.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lit_share.functional._centers import CENTERS, CenterName

# Elements of a block: less takes more calls, more falls out of the cache.
BLOCK = 2**19

# To make room for so few elements takes less time than to find it.
_SMALL = 2**13


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


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return torch.sub(a, b) if a.numel() <= _SMALL else torch.sub(a, b, out=_rooms.like(a))


def is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether these are contiguous tensors on the host, of one shape and one dtype that needs no wider one."""
    first = next(tensor for tensor in tensors if tensor is not None)
    dtype, shape = first.dtype, first.shape
    if dtype not in (torch.float32, torch.float64):
        return False
    for t in tensors:  # a loop, as this is asked for every tie in every step
        if t is not None and not (
            t.is_cpu and t.dtype == dtype and t.shape == shape and t.is_contiguous()
        ):
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
    if members[0].numel() <= BLOCK:
        _pull(center, members, grads, start or (), strength)
        return
    n = len(members)
    for block in _blocks([*members, *grads, *(start or ())]):
        _pull(
            center,
            cast("list[Tensor]", block[:n]),
            block[n : 2 * n],
            cast("list[Tensor]", block[2 * n :]),
            strength,
        )


def _pull(
    center: CenterName,
    w: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    start: Sequence[Tensor],
    strength: float,
) -> None:
    if center == "zero":
        for tensor, g in zip(w, grads, strict=True):
            if g is not None:
                g.add_(tensor, alpha=strength)
        return
    if center == "mean" and len(w) == 2:
        d = _difference(w[0], w[1])
        for g, sign in zip(grads, (strength, -strength), strict=True):
            if g is not None:
                g.add_(d, alpha=sign)
    elif center == "mean":
        # Deviations from the first member, as `mean` has them: W_i − c = (W_i − W_1) − total / N.
        total = _rooms.like(w[0], 1).zero_()
        for tensor, g in zip(w[1:], grads[1:], strict=True):
            total.add_(d := _difference(tensor, w[0]))
            if g is not None:
                g.add_(d, alpha=len(w) * strength)
        for g in grads:
            if g is not None:
                g.sub_(total, alpha=strength)
    else:
        origins = start if center == "start" else [w[0]] * len(w)
        for tensor, origin, g in zip(w, origins, grads, strict=True):
            if g is not None and tensor is not origin:
                g.add_(_difference(tensor, origin), alpha=strength)


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
    for block in _blocks([*members, *(start or ())], by_rows):
        w = [tensor for tensor in block if tensor is not None]
        if center == "mean":
            if sum(steps) > 0.0:
                (_bring_rows_together if by_rows else _bring_together)(w[0], w[1], *steps)
        elif steps[-1] > 0.0:
            moving, origin = (
                (w[0], None) if center == "zero" else w if center == "start" else reversed(w)
            )
            (_shrink_rows if by_rows else _shrink_elements)(moving, origin, steps[-1])


def _bring_together(a: Tensor, b: Tensor, t_a: float, t_b: float) -> None:
    step = t_a + t_b
    d = _difference(a, b)
    m = torch.clamp(d, -step, step, out=_rooms.like(a, 1))
    s = d.sub_(m)
    if t_b > 0.0:
        b.add_(m, alpha=t_b / step) if t_a > 0.0 else torch.sub(a, s, out=b)
    if t_a > 0.0:
        torch.add(b, s, out=a)


def _bring_rows_together(a: Tensor, b: Tensor, t_a: float, t_b: float) -> None:
    step = t_a + t_b
    d = _difference(a, b)
    taken = _share_taken(d, step)
    if t_b > 0.0:
        b.addcmul_(d, taken, value=t_b / step) if t_a > 0.0 else torch.addcmul(
            a, d, 1.0 - taken, value=-1.0, out=b
        )
    if t_a > 0.0:
        torch.addcmul(b, d, 1.0 - taken, out=a)


def _shrink_elements(w: Tensor, origin: Tensor | None, step: float) -> None:
    d = w if origin is None else _difference(w, origin)
    d.sub_(torch.clamp(d, -step, step, out=_rooms.like(w, 1)))
    if origin is not None:
        torch.add(origin, d, out=w)


def _shrink_rows(w: Tensor, origin: Tensor | None, step: float) -> None:
    if origin is None:
        w.mul_(1.0 - _share_taken(w, step)).add_(
            0.0
        )  # -0.0 + 0.0 is 0.0, of which files keep nothing
    else:
        d = _difference(w, origin)
        torch.addcmul(origin, d, 1.0 - _share_taken(d, step), out=w)


def _share_taken(d: Tensor, step: float) -> Tensor:
    """Return m / d of each row: 1 where nothing is left."""
    n = (
        torch.linalg.vector_norm(d.flatten(1), dim=1).view(-1, *[1] * (d.ndim - 1))
        if d.ndim > 1
        else d.abs()
    )
    return torch.where(n > step, step / n, 1.0)  # of NaN everything, which leaves NaN


def squares_over_rows(matrix: Tensor) -> Tensor | None:
    """The sum of squares along dim 0 in float64, of the shape of a row; `None` if a square is not finite."""
    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for (rows,) in _blocks([matrix], by_rows=True):
        assert rows is not None
        total += torch.mul(rows, rows, out=_rooms.like(rows)).sum(0)
    return total if np.isfinite(total.numpy()).all() else None


def _blocks(
    tensors: Sequence[Tensor | None], by_rows: bool = False
) -> Iterator[list[Tensor | None]]:
    """The same part of each tensor, of at most `BLOCK` elements, or of at least one row along dim 0."""
    first = next(tensor for tensor in tensors if tensor is not None)
    if first.numel() <= BLOCK:
        yield list(tensors)
        return
    size = max(1, BLOCK * len(first) // first.numel()) if by_rows else BLOCK
    parts = [None if t is None else (t if by_rows else t.view(-1)).split(size) for t in tensors]
    for i in range(len(next(part for part in parts if part is not None))):
        yield [None if part is None else part[i] for part in parts]
