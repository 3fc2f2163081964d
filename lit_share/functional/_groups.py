"""Groups: how the elements of a tie are gathered into groups; the member axis is always inside a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_share.functional._in_place import is_plain, squares_over_rows
from lit_share.functional._shards import Part

GroupsName = Literal["element", "output", "input", "tensor", "spectrum"]


class Split(NamedTuple):
    """The deviations of one tie, taken apart into groups.

    ``norms`` is the vector n of shape ``(groups,)``; ``here(v)`` takes of such a vector the entries of the groups that
    the deviations at hand have; ``multiply(f)`` returns these deviations with each group multiplied by its factor, one
    tensor per member.
    """

    norms: Tensor
    here: Callable[[Tensor], Tensor]
    multiply: Callable[[Tensor], list[Tensor]]


class Groups(NamedTuple):
    """A grouping: how it splits deviations D_1 … D_N, and the least dimensions that N such members need.

    ``measure(deviations, part, held)`` is what the groups' norms are made of, those of held groups being zero. If there
    is a part, which says that the deviations are divided, it adds up over the parts; ``split(deviations, measured,
    part)`` takes the sum.

    ``shape(size)`` is that of a tensor with one entry per group which broadcasts over members of this size; ``None``
    where groups are not parts of the members. ``crosses(ndim, dim)`` says whether groups are divided where members of
    ``ndim`` dimensions are along ``dim``.
    """

    measure: Callable[[Sequence[Tensor], Part | None, Tensor | None], Tensor]
    split: Callable[[Sequence[Tensor], Tensor, Part | None], Split]
    crosses: Callable[[int, int], bool]
    min_ndim: Callable[[int], int] = lambda _: 0
    shape: Callable[[torch.Size], torch.Size] | None = None
    elementwise: bool = False  # whether every element is a group by itself


def _all_here(vector: Tensor) -> Tensor:
    return vector


def _norms(deviation: Tensor, inside: tuple[int, ...]) -> Tensor:
    if not inside:
        return deviation.abs()  # no dimension would mean all of them to `vector_norm`
    if 0 in inside and len(inside) < deviation.ndim and is_plain([deviation]):
        # Along the first dimension, from one row to the next, `vector_norm` is ten times slower.
        squares = squares_over_rows(deviation)
        if squares is not None:
            squares = squares.unsqueeze(0)
            return (
                (squares.sum(inside[1:], keepdim=True) if inside[1:] else squares)
                .sqrt()
                .to(deviation)
            )
    return torch.linalg.vector_norm(deviation, dim=inside, keepdim=True)  # type: ignore[no-any-return]


def _partition(
    keep: Callable[[int], tuple[int, ...]], min_ndim: int = 0, elementwise: bool = False
) -> Groups:
    """Groups of the elements that agree in their index along the dimensions ``keep(ndim)``."""

    def crosses(ndim: int, dim: int) -> bool:
        return dim not in keep(ndim)

    def shape(size: torch.Size) -> torch.Size:
        return torch.Size(
            length if dim in keep(len(size)) else 1 for dim, length in enumerate(size)
        )

    def measure(deviations: Sequence[Tensor], part: Part | None, held: Tensor | None) -> Tensor:
        ndim = deviations[0].ndim
        inside = tuple(dim for dim in range(ndim) if dim not in keep(ndim))
        norms = reduce(torch.hypot, (_norms(d, inside) for d in deviations))
        if held is not None:
            norms = norms.masked_fill(held.view_as(norms), 0.0)
        if part is None:
            return norms
        return norms.double().square() if crosses(ndim, part.dim) else part.in_whole(norms)

    def split(deviations: Sequence[Tensor], measured: Tensor, part: Part | None) -> Split:
        size = shape(deviations[0].shape)

        def multiply(factor: Tensor) -> list[Tensor]:
            return [d * factor.view(size) for d in deviations]

        if part is None:
            return Split(measured.flatten(), _all_here, multiply)
        if crosses(len(size), part.dim):
            return Split(measured.sqrt().to(deviations[0]).flatten(), _all_here, multiply)
        whole = measured.to(deviations[0])
        return Split(
            whole.flatten(), lambda v: part.of_whole(v.view_as(whole), size).flatten(), multiply
        )

    return Groups(measure, split, crosses, lambda _: min_ndim, shape, elementwise)


def _measure_spectrum(
    deviations: Sequence[Tensor],
    part: Part | None,
    held: Tensor | None = None,  # noqa: ARG001
) -> Tensor:
    """The Gram matrix in float64: of the flat members if they are several, or of the shorter side of the matrix.

    Where the longer side is not the one that is divided, a matrix has to be whole first.
    """
    if len(deviations) > 1:
        flat = [d.flatten().double() for d in deviations]
        return torch.stack([torch.stack([torch.dot(x, y) for y in flat]) for x in flat])
    if part is not None and not _adds_up(deviations[0], part):
        return part.in_whole(deviations[0])
    rows = deviations[0].flatten(1).double()
    return rows @ rows.T if _is_wide(deviations[0], part) else rows.T @ rows


def _is_wide(matrix: Tensor, part: Part | None) -> bool:
    size = list(matrix.shape)
    if part is not None:
        size[part.dim] = part.length
    return size[0] <= math.prod(size[1:])


def _adds_up(matrix: Tensor, part: Part) -> bool:
    """Whether the Gram matrix of the shorter side is a sum over parts."""
    return _is_wide(matrix, part) == (part.dim != 0)


def _split_spectrum(deviations: Sequence[Tensor], measured: Tensor, part: Part | None) -> Split:
    r"""Singular values: of the matrix itself (dim 0 × the rest) for N = 1, of the stacked flat members for N ≥ 2.

    They come from the eigenvalues of the Gram matrix in float64, so that members are never stacked. With
    :math:`D = U \Sigma V^\top`, multiplying the singular values by f is :math:`U \operatorname{diag}(f) U^\top D`.
    """
    first = deviations[0]
    if len(deviations) == 1 and part is not None and not _adds_up(first, part):
        norms, _, multiply_whole = _split_spectrum(
            [measured], _measure_spectrum([measured], None), None
        )

        def multiply_part(factor: Tensor) -> list[Tensor]:
            (whole,) = multiply_whole(factor)
            return [part.of_whole(whole, first.shape).to(first)]

        return Split(norms.to(first), _all_here, multiply_part)
    eigenvalues, basis = torch.linalg.eigh(measured)
    # Below this, eigenvalues are rounding errors, of the Gram matrix or of the deviations of stacked members from
    # their mean (which have one singular value less than members), and their vectors carry no direction.
    noise = len(measured) * torch.finfo(measured.dtype).eps
    if len(deviations) > 1:
        noise = max(noise, (4 * len(measured) * torch.finfo(first.dtype).eps) ** 2)
    norms = torch.where(eigenvalues > noise * eigenvalues.sum(), eigenvalues, 0.0).sqrt()

    def multiply(factor: Tensor) -> list[Tensor]:
        rotation = (basis * factor.to(basis)) @ basis.T
        if len(deviations) == 1:
            rows = first.flatten(1).double()
            product = rotation @ rows if _is_wide(first, part) else rows @ rotation
            return [product.view_as(first).to(first)]
        mixed = rotation.to(first)
        return [
            sum((m * d for m, d in zip(row, deviations, strict=True)), torch.zeros_like(first))
            for row in mixed
        ]

    return Split(norms.to(first), _all_here, multiply)


GROUPS: dict[GroupsName, Groups] = {
    # every number by itself
    "element": _partition(keep=lambda ndim: tuple(range(ndim)), elementwise=True),
    # dim 0: one output unit or filter
    "output": _partition(keep=lambda _: (0,), min_ndim=1),
    # dim 1: one input unit or channel, over all outputs (a row of the GrOWL paper's matrices)
    "input": _partition(keep=lambda _: (1,), min_ndim=2),
    # the whole tensor
    "tensor": _partition(keep=lambda _: ()),
    # singular values: low rank
    "spectrum": Groups(
        _measure_spectrum,
        _split_spectrum,
        crosses=lambda _ndim, _dim: True,
        min_ndim=lambda members: 2 if members == 1 else 0,
    ),
}
