"""Groups: how the elements of a tie are gathered into groups; the member axis is always inside a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

GroupsName = Literal["element", "output", "input", "tensor", "spectrum"]


class Split(NamedTuple):
    """The deviations of one tie, taken apart into groups.

    ``norms`` is the vector n of shape ``(groups,)``; ``multiply(f)`` returns the deviations with each group
    multiplied by its factor, one tensor per member.
    """

    norms: Tensor
    multiply: Callable[[Tensor], list[Tensor]]


class Groups(NamedTuple):
    """A grouping: how it splits deviations D_1 … D_N, and the least dimensions that N such members need.

    ``shape(size)`` is that of a tensor with one entry per group which broadcasts over members of this size; ``None``
    where groups are not parts of the members.
    """

    split: Callable[[Sequence[Tensor]], Split]
    min_ndim: Callable[[int], int] = lambda _: 0
    shape: Callable[[torch.Size], torch.Size] | None = None
    elementwise: bool = False  # whether every element is a group by itself


def _partition(keep: Callable[[int], tuple[int, ...]], min_ndim: int = 0, elementwise: bool = False) -> Groups:
    """Groups of the elements that agree in their index along the dimensions ``keep(ndim)``."""

    def split(deviations: Sequence[Tensor]) -> Split:
        ndim = deviations[0].ndim
        inside = tuple(dim for dim in range(ndim) if dim not in keep(ndim))
        # An empty `dim` would mean all dimensions to `vector_norm`.
        parts = [torch.linalg.vector_norm(d, dim=inside, keepdim=True) if inside else d.abs() for d in deviations]
        norms = reduce(torch.hypot, parts)
        return Split(norms.flatten(), lambda factor: [d * factor.view_as(norms) for d in deviations])

    def shape(size: torch.Size) -> torch.Size:
        return torch.Size(length if dim in keep(len(size)) else 1 for dim, length in enumerate(size))

    return Groups(split, lambda _: min_ndim, shape, elementwise)


def _spectrum(deviations: Sequence[Tensor]) -> Split:
    r"""Singular values: of the matrix itself (dim 0 × the rest) for N = 1, of the stacked flat members for N ≥ 2.

    They come from the eigenvalues of the Gram matrix in float64, so that members are never stacked. With
    :math:`D = U \Sigma V^\top`, multiplying the singular values by f is :math:`U \operatorname{diag}(f) U^\top D`.
    """
    rows = deviations[0].flatten(1).double() if len(deviations) == 1 else None
    if rows is None:
        flat = [d.flatten().double() for d in deviations]
        gram = torch.stack([torch.stack([torch.dot(x, y) for y in flat]) for x in flat])
    else:
        wide = rows.shape[0] <= rows.shape[1]
        gram = rows @ rows.T if wide else rows.T @ rows
    eigenvalues, basis = torch.linalg.eigh(gram)
    # Below this, eigenvalues are rounding errors, of the Gram matrix or of the deviations of stacked members from
    # their mean (which have one singular value less than members), and their vectors carry no direction.
    noise = len(gram) * torch.finfo(gram.dtype).eps
    if rows is None:
        noise = max(noise, (4 * len(gram) * torch.finfo(deviations[0].dtype).eps) ** 2)
    norms = torch.where(eigenvalues > noise * eigenvalues.sum(), eigenvalues, 0.0).sqrt()

    def multiply(factor: Tensor) -> list[Tensor]:
        rotation = (basis * factor.to(basis)) @ basis.T
        if rows is not None:
            product = rotation @ rows if wide else rows @ rotation
            return [product.view_as(deviations[0]).to(deviations[0])]
        mixed = rotation.to(deviations[0])
        return [
            sum((m * d for m, d in zip(row, deviations, strict=True)), torch.zeros_like(deviations[0])) for row in mixed
        ]

    return Split(norms.to(deviations[0]), multiply)


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
    "spectrum": Groups(_spectrum, min_ndim=lambda members: 2 if members == 1 else 0),
}
