"""Groups: how the elements of a tie are gathered; the member axis is always inside a group."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from lit_share.functional._spectrum import gram_matrix, gram_of_matrix, singular_values
from lit_share.functional._tie_tensors import Shard, float64_on

GroupsName = Literal["element", "output", "input", "tensor", "spectrum"]


@dataclass(frozen=True)
class Split:
    """The deviations of one tie, split into groups.

    Attributes:
        norms: The vector n, of shape ``(groups,)``; of all shards where the members are sharded.
        local: Returns the entries of such a vector for the groups of the local deviations.
        multiply: Returns the local deviations with each group multiplied by its factor.
    """

    norms: Tensor
    local: Callable[[Tensor], Tensor]
    multiply: Callable[[Tensor], list[Tensor]]


class Groups(ABC):
    """A grouping of the elements of deviations D_1 … D_N, tensors of one shape."""

    @abstractmethod
    def min_ndim(self, members: int) -> int:
        """Return the fewest dimensions that so many members need."""

    @abstractmethod
    def spans_shards(self, ndim: int, dim: int) -> bool:
        """Whether groups are spread over shards of members that are sharded along ``dim``."""

    @abstractmethod
    def statistics(
        self, deviations: Sequence[Tensor], shard: Shard | None, frozen: Tensor | None
    ) -> Tensor:
        """Return what `split` computes the group norms from; frozen groups have norm 0.

        With a shard, the statistics of all shards sum to those of the full deviations.
        """

    @abstractmethod
    def split(self, deviations: Sequence[Tensor], statistics: Tensor, shard: Shard | None) -> Split:
        """Split deviations into groups, given their statistics, summed over all shards."""

    def mask_shape(self, shape: Sequence[int]) -> torch.Size | None:  # noqa: ARG002
        """Return the shape of a mask of groups that broadcasts over members of this shape.

        ``None`` if groups are not made of elements.
        """
        return None

    def kept(self, ndim: int) -> range | None:  # noqa: ARG002
        """Return the dimensions along which elements are in different groups.

        ``None`` if groups are not made of elements.
        """
        return None

    def is_elementwise(self, ndim: int) -> bool:
        """Whether every element is a group by itself."""
        return self.kept(ndim) == range(ndim)


@dataclass(frozen=True)
class Partition(Groups):
    """Groups of the elements that agree in their indices along some adjacent dimensions.

    Attributes:
        kept_dims: Returns these dimensions, given the number of all.
        least_ndim: The fewest dimensions that members need.
    """

    kept_dims: Callable[[int], range]
    least_ndim: int = 0

    def min_ndim(self, members: int) -> int:  # noqa: ARG002
        """Return ``least_ndim``."""
        return self.least_ndim

    def kept(self, ndim: int) -> range:
        """Return the dimensions along which elements are in different groups."""
        return self.kept_dims(ndim)

    def spans_shards(self, ndim: int, dim: int) -> bool:
        """Whether ``dim`` is inside the groups."""
        return dim not in self.kept(ndim)

    def mask_shape(self, shape: Sequence[int]) -> torch.Size:
        """Return the shape with 1 for every dimension inside the groups."""
        kept = self.kept(len(shape))
        return torch.Size(length if dim in kept else 1 for dim, length in enumerate(shape))

    def statistics(
        self, deviations: Sequence[Tensor], shard: Shard | None, frozen: Tensor | None
    ) -> Tensor:
        """Return the group norms, or their squares where groups span shards."""
        ndim = deviations[0].ndim
        inside = tuple(dim for dim in range(ndim) if dim not in self.kept(ndim))
        norms = reduce(torch.hypot, (_norms_along(d, inside) for d in deviations))
        if frozen is not None:
            norms = norms.masked_fill(frozen.view_as(norms), 0.0)
        if shard is None:
            return norms
        if self.spans_shards(ndim, shard.dim):
            return norms.to(float64_on(norms.device)).square()
        return shard.in_full(norms)

    def split(self, deviations: Sequence[Tensor], statistics: Tensor, shard: Shard | None) -> Split:
        """Split deviations into groups; a factor is broadcast over the dimensions inside."""
        size = self.mask_shape(deviations[0].shape)

        def multiply(factor: Tensor) -> list[Tensor]:
            return [d * factor.to(d.dtype).view(size) for d in deviations]

        def of_shard(vector: Tensor) -> Tensor:
            assert shard is not None
            return shard.of_full(vector.view_as(statistics), size).flatten()

        if shard is None:
            return Split(statistics.flatten(), _unchanged, multiply)
        if self.spans_shards(len(size), shard.dim):
            return Split(statistics.sqrt().flatten(), _unchanged, multiply)
        return Split(statistics.flatten(), of_shard, multiply)


class Spectrum(Groups):
    r"""Singular values: of the matrix itself (dim 0 × the rest) for N = 1, else of stacked members.

    They are computed from the eigenvalues of a Gram matrix in float64, so that members are never
    stacked. With :math:`D = U \Sigma V^\top`, multiplying the singular values by f is
    :math:`U \operatorname{diag}(f) U^\top D`.
    """

    def min_ndim(self, members: int) -> int:
        """Return 2 for a single matrix."""
        return 2 if members == 1 else 0

    def spans_shards(self, ndim: int, dim: int) -> bool:  # noqa: ARG002
        """Return ``True``: all elements have a part in all singular values."""
        return True

    def statistics(
        self,
        deviations: Sequence[Tensor],
        shard: Shard | None,
        frozen: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the Gram matrix of stacked members, or of the shorter side of a matrix.

        Where that is not a sum over shards, return the full matrix instead.
        """
        if len(deviations) > 1:
            return gram_matrix(deviations)
        (matrix,) = deviations
        if shard is not None and not _adds_up(matrix, shard):
            return shard.in_full(matrix)
        return gram_of_matrix(matrix, _is_wide(matrix, shard))

    def split(self, deviations: Sequence[Tensor], statistics: Tensor, shard: Shard | None) -> Split:
        """Split deviations into singular values."""
        first = deviations[0]
        if len(deviations) == 1 and shard is not None and not _adds_up(first, shard):
            full = self.split([statistics], self.statistics([statistics], None, None), None)

            def multiply_shard(factor: Tensor) -> list[Tensor]:
                (product,) = full.multiply(factor)
                return [shard.of_full(product, first.shape).to(first)]

            return Split(full.norms.to(first), _unchanged, multiply_shard)
        norms, basis = singular_values(statistics, first.dtype, len(deviations))

        def multiply(factor: Tensor) -> list[Tensor]:
            rotation = (basis * factor.to(basis)) @ basis.T
            if len(deviations) == 1:
                matrix = first.flatten(1).to(rotation)
                product = rotation @ matrix if _is_wide(first, shard) else matrix @ rotation
                return [product.view_as(first).to(first)]
            return _mixed(rotation.to(first), deviations)

        return Split(norms.to(first), _unchanged, multiply)


def _unchanged(vector: Tensor) -> Tensor:
    return vector


def _norms_along(deviation: Tensor, inside: tuple[int, ...]) -> Tensor:
    """Return the norms along some dimensions, which are kept with length 1.

    Sums of squares are computed in float64, where those of float32 cannot overflow; those of float64
    are scaled by the largest element first.
    """
    if not inside:
        return deviation.abs()  # to `vector_norm` no dimension would mean all of them
    wide = float64_on(deviation.device)
    if deviation.dtype != wide or deviation.numel() == 0:
        norms: Tensor = torch.linalg.vector_norm(deviation, dim=inside, keepdim=True, dtype=wide)
        return norms
    largest = deviation.abs().amax(dim=inside, keepdim=True)
    unit = torch.where((largest > 0.0) & torch.isfinite(largest), largest, 1.0)
    norms = torch.linalg.vector_norm(deviation / unit, dim=inside, keepdim=True)
    return unit * norms


def _is_wide(matrix: Tensor, shard: Shard | None) -> bool:
    """Whether the full matrix has at most as many rows as columns."""
    size = list(matrix.shape)
    if shard is not None:
        size[shard.dim] = shard.length
    return size[0] <= math.prod(size[1:])


def _adds_up(matrix: Tensor, shard: Shard) -> bool:
    """Whether the Gram matrix of the shorter side is a sum over shards."""
    return _is_wide(matrix, shard) == (shard.dim != 0)


def _mixed(rotation: Tensor, deviations: Sequence[Tensor]) -> list[Tensor]:
    """Return the combinations of the deviations that the rows of a matrix say."""
    mixed = []
    for weights in rotation:
        total = torch.zeros_like(deviations[0])
        for weight, deviation in zip(weights, deviations, strict=True):
            total = total + weight * deviation
        mixed.append(total)
    return mixed


GROUPS: dict[str, Groups] = {
    # every number by itself
    "element": Partition(range),
    # dim 0: one output unit or filter
    "output": Partition(lambda _: range(1), least_ndim=1),
    # dim 1: one input unit or channel, over all outputs (a row of the GrOWL paper's matrices)
    "input": Partition(lambda _: range(1, 2), least_ndim=2),
    # the whole tensor
    "tensor": Partition(lambda _: range(0)),
    # singular values: low rank
    "spectrum": Spectrum(),
}
