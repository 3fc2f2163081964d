"""Groupings of the elements of a tie; a group has the same elements of all members."""

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
        norms: The vector n, of shape ``(groups,)``, over all shards of sharded members.
        local: Return the entries of such a vector for local groups.
        multiply: Return the local deviations, each group multiplied by its factor.
    """

    norms: Tensor
    local: Callable[[Tensor], Tensor]
    multiply: Callable[[Tensor], list[Tensor]]


class Groups(ABC):
    """A grouping of the elements of deviations D_1 … D_N, tensors of one shape."""

    @abstractmethod
    def min_ndim(self, members: int) -> int:
        """Return the fewest dimensions allowed, given the number of members."""

    @abstractmethod
    def spans_shards(self, ndim: int, dim: int) -> bool:
        """Whether groups span several shards of members that are sharded along ``dim``."""

    @abstractmethod
    def statistics(
        self, deviations: Sequence[Tensor], shard: Shard | None, frozen: Tensor | None
    ) -> Tensor:
        """Return the numbers from which `split` computes group norms; frozen groups have norm 0.

        The statistics of all shards sum to those of the full deviations.
        """

    @abstractmethod
    def split(self, deviations: Sequence[Tensor], statistics: Tensor, shard: Shard | None) -> Split:
        """Split deviations into groups, given the statistics summed over all shards."""

    def mask_shape(self, shape: Sequence[int]) -> torch.Size | None:  # noqa: ARG002
        """Return the shape of a mask of groups; ``None`` if groups are not sets of elements.

        It broadcasts over members of ``shape``.
        """
        return None

    def kept(self, ndim: int) -> range | None:  # noqa: ARG002
        """Return the dimensions that index groups; ``None`` if groups are not sets of elements."""
        return None

    def elements(self, shape: Sequence[int]) -> int:  # noqa: ARG002
        """Return how many elements of a member a group has; 1 for groups of other things."""
        return 1

    def is_elementwise(self, ndim: int) -> bool:
        """Whether every element is a group."""
        return self.kept(ndim) == range(ndim)


@dataclass(frozen=True)
class Partition(Groups):
    """Groups of elements with the same indices along some adjacent dimensions.

    Attributes:
        kept_dims: Return these dimensions, given the number of all dimensions.
        least_ndim: The fewest dimensions that members need.
    """

    kept_dims: Callable[[int], range]
    least_ndim: int = 0

    def min_ndim(self, members: int) -> int:  # noqa: ARG002
        """Return ``least_ndim``."""
        return self.least_ndim

    def kept(self, ndim: int) -> range:
        """Return the dimensions that index groups."""
        return self.kept_dims(ndim)

    def elements(self, shape: Sequence[int]) -> int:
        """Return the product of the dimensions inside the groups."""
        kept = self.kept(len(shape))
        return math.prod(length for dim, length in enumerate(shape) if dim not in kept)

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
        # `hypot` neither overflows nor underflows.
        norms = reduce(torch.hypot, (_norms_along(d, inside) for d in deviations))
        if frozen is not None:
            norms = norms.masked_fill(frozen.view_as(norms), 0.0)
        if shard is None:
            return norms
        if self.spans_shards(ndim, shard.dim):
            # Squares add up over shards; those of float32 would overflow above 1.8e19.
            return norms.to(float64_on(norms.device)).square()
        return shard.in_full(norms)

    def split(self, deviations: Sequence[Tensor], statistics: Tensor, shard: Shard | None) -> Split:
        """Split deviations into groups; factors broadcast over the dimensions inside groups."""
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
    r"""Singular values as groups: of a matrix (dim 0 × the rest), or of N > 1 stacked members.

    They are square roots of the eigenvalues of a Gram matrix in float64, so that members are never
    stacked. With :math:`D = U \Sigma V^\top`, multiplying the singular values by f gives
    :math:`U \operatorname{diag}(f) U^\top D`.
    """

    def min_ndim(self, members: int) -> int:
        """Return 2 for a single matrix."""
        if members == 1:
            return 2
        return 0

    def spans_shards(self, ndim: int, dim: int) -> bool:  # noqa: ARG002
        """Return ``True``, as every singular value depends on all elements."""
        return True

    def statistics(
        self,
        deviations: Sequence[Tensor],
        shard: Shard | None,
        frozen: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the Gram matrix of stacked members, or of the shorter side of a matrix.

        If that is not a sum over shards, return the full matrix.
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
        # The statistics are then the full matrix.
        if len(deviations) == 1 and shard is not None and not _adds_up(first, shard):
            full = self.split([statistics], self.statistics([statistics], None, None), None)

            def multiply_shard(factor: Tensor) -> list[Tensor]:
                (product,) = full.multiply(factor)
                return [shard.of_full(product, first.shape).to(first)]

            return Split(full.norms.to(first), _unchanged, multiply_shard)
        norms, basis = singular_values(statistics, first.dtype, len(deviations))

        def multiply(factor: Tensor) -> list[Tensor]:
            rotation = (basis * factor.to(basis)) @ basis.T
            if len(deviations) > 1:
                return _combine(rotation.to(first), deviations)
            matrix = first.flatten(1).to(rotation)
            if _is_wide(first, shard):
                product = rotation @ matrix
            else:
                product = matrix @ rotation
            return [product.view_as(first).to(first)]

        return Split(norms.to(first), _unchanged, multiply)


def _unchanged(vector: Tensor) -> Tensor:
    return vector


def _norms_along(deviation: Tensor, inside: tuple[int, ...]) -> Tensor:
    if deviation.is_complex():
        deviation = deviation.abs()
    # `vector_norm` takes no dimensions for all of them.
    if not inside:
        return deviation.abs()
    # In float64, sums of squares of float32 cannot overflow.
    wide = float64_on(deviation.device)
    if deviation.dtype != wide or deviation.numel() == 0:
        if (
            0 in inside
            and deviation.is_cpu
            and deviation.numel() > 0
            and not deviation.requires_grad
        ):
            return _norms_along_rows(deviation, inside)
        norms: Tensor = torch.linalg.vector_norm(deviation, dim=inside, keepdim=True, dtype=wide)
        return norms
    # Squares of float64 overflow above 1.3e154, so deviations are scaled by their largest element.
    largest = deviation.abs().amax(dim=inside, keepdim=True)
    unit = torch.where((largest > 0.0) & torch.isfinite(largest), largest, 1.0)
    norms = torch.linalg.vector_norm(deviation / unit, dim=inside, keepdim=True)
    return unit * norms


def _norms_along_rows(deviation: Tensor, inside: tuple[int, ...]) -> Tensor:
    # `vector_norm` is ten times slower along dimension 0, where it reads one element of each row.
    # Blocks of rows stay in the cache while they are converted and squared.
    rows = max(1, 2**16 * len(deviation) // deviation.numel())
    squares = torch.zeros(deviation.shape[1:], dtype=torch.float64)
    for block in deviation.split(rows):
        squares += block.double().square_().sum(0)
    squares = squares.unsqueeze(0)
    others = inside[1:]
    if others:
        squares = squares.sum(others, keepdim=True)
    return squares.sqrt()


def _is_wide(matrix: Tensor, shard: Shard | None) -> bool:
    """Whether the full matrix (dims from 1 on flattened) has at most as many rows as columns."""
    # All ranks must agree, so the length of the full matrix counts.
    size = list(matrix.shape)
    if shard is not None:
        size[shard.dim] = shard.length
    return size[0] <= math.prod(size[1:])


def _adds_up(matrix: Tensor, shard: Shard) -> bool:
    """Whether the Gram matrix of the full matrix's shorter side is a sum over its shards."""
    return _is_wide(matrix, shard) == (shard.dim != 0)


def _combine(coefficients: Tensor, deviations: Sequence[Tensor]) -> list[Tensor]:
    """Return a linear combination of the deviations for each row of ``coefficients``."""
    combined = []
    for row in coefficients:
        # A matrix product would need the deviations in a stack.
        total = torch.zeros_like(deviations[0])
        for coefficient, deviation in zip(row, deviations, strict=True):
            total = total + coefficient * deviation
        combined.append(total)
    return combined


GROUPS: dict[str, Groups] = {
    # Every element is a group.
    "element": Partition(range),
    # An index of dim 0 is an output unit or filter.
    "output": Partition(lambda _: range(1), least_ndim=1),
    # An index of dim 1 is an input unit or channel, a row of the matrix in the GrOWL paper.
    "input": Partition(lambda _: range(1, 2), least_ndim=2),
    # A tensor is a group.
    "tensor": Partition(lambda _: range(0)),
    # Few singular values mean low rank.
    "spectrum": Spectrum(),
}
