"""How far the members of a tie are apart, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_share.functional._fused import FusedComparison, is_loopable
from lit_share.functional._tie_tensors import block_size, float64_on


class Comparison(NamedTuple):
    r"""Sums over the elements of N tied members, which add up over ties.

    Attributes:
        between: :math:`\sum_{i<j} \lVert W_i - W_j \rVert^2`.
        size: :math:`(N - 1) \sum_i \lVert W_i \rVert^2`.
        equal: The number of elements in which all members are exactly equal.
        numel: The number of elements of a member.
    """

    between: float
    size: float
    equal: int
    numel: int

    @classmethod
    def total(cls, comparisons: Sequence[Comparison]) -> Comparison:
        """Return the sums over several ties."""
        start = cls(0.0, 0.0, 0, 0)
        return cls(*map(sum, zip(start, *comparisons, strict=True)))

    @property
    def distance(self) -> float:
        """The relative distance, sqrt(between / size), and 0 if all members are zero."""
        if self.size == 0.0:
            return 0.0
        # NaN in a member makes the distance NaN, as it must not look like members that are equal.
        return math.sqrt(self.between / self.size)

    @property
    def tied(self) -> float:
        """The fraction of elements in which all members are exactly equal."""
        return self.equal / max(self.numel, 1)


@torch.no_grad()
def compare_members(members: Sequence[Tensor]) -> Comparison:
    """Return the sums that distances and the fraction of tied elements are made of.

    Args:
        members: N ≥ 2 dense tensors of one shape.

    Raises:
        ValueError: If shapes differ, or there is one member.

    Example:
        >>> compare_members([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])])
        Comparison(between=4.0, size=6.0, equal=1, numel=2)
    """
    members = [member.detach() for member in members]
    shape = members[0].shape
    if len(members) < 2 or any(member.shape != shape for member in members):
        raise ValueError(
            "members to compare must be two or more tensors of one shape, got the shapes "
            f"{[tuple(member.shape) for member in members]}"
        )
    if is_loopable(members):
        between, size, equal = FusedComparison([members]).sums().tolist()
    else:
        between, size, equal = _plain_sums(members)
    return Comparison(between, size, int(equal), shape.numel())


@torch.no_grad()
def compare_numbers(tensor: Tensor) -> Comparison:
    """Return how far the n numbers of a tensor are apart, and how many repeat another.

    Args:
        tensor: Dense tensor of n ≥ 2 numbers.

    Returns:
        The sums ``between`` and ``size`` of `compare_members` for n members of one number.
        ``equal`` is n minus the number of different values, and ``numel`` is n − 1, so that
        `Comparison.tied` is 1 if all numbers are equal.

    Example:
        >>> compare_numbers(torch.tensor([1.0, 1.0, 2.0]))
        Comparison(between=2.0, size=12.0, equal=1, numel=2)
    """
    n, numbers = tensor.numel(), tensor.detach().flatten()
    numbers = numbers.to(torch.promote_types(numbers.dtype, float64_on(numbers.device)))
    # The first number is subtracted before the mean, so that equal ones have distance exactly 0.
    offsets = numbers - numbers[0]
    between = n * _square(offsets - offsets.mean()).sum()
    size = (n - 1) * _square(numbers).sum()
    return Comparison(float(between), float(size), n - count_values(tensor), n - 1)


def count_values(tensor: Tensor) -> int:
    """Count the different values of a tensor; 0.0 and −0.0 are one, and each NaN is another.

    Example:
        >>> count_values(torch.tensor([0.5, -0.0, 0.0]))
        2
    """
    if tensor.numel() == 0:
        return 0
    numbers = tensor.detach().flatten()
    if numbers.is_complex():
        return len(torch.view_as_real(numbers).unique(dim=0))
    if numbers.is_floating_point() and numbers.element_size() == 1:
        # Torch does not sort float8.
        numbers = numbers.float()
    values = numbers.sort().values
    return 1 + int((values[1:] != values[:-1]).sum())


def _plain_sums(members: Sequence[Tensor]) -> tuple[float, float, int]:
    """Return (between, size, equal), for which a device is waited for twice."""
    count, size = len(members), block_size(members[0])
    # In float16, squares of numbers above 256 would overflow.
    wide = torch.promote_types(members[0].dtype, float64_on(members[0].device))
    sums: list[Tensor] = []
    equal: list[Tensor] = []
    for blocks in zip(*(member.reshape(-1).split(size) for member in members), strict=True):
        numbers = torch.stack([block.to(members[0].device) for block in blocks])
        equal.append((numbers == numbers[0]).all(dim=0).sum())
        # Σ_{i<j} |W_i − W_j|² = N Σ_i |W_i − mean|² takes N differences instead of N². The first
        # member is subtracted before the mean, so that equal members have distance exactly 0.
        numbers = numbers.to(wide)
        offsets = numbers - numbers[0]
        deviations = offsets - offsets.mean(dim=0)
        both = (count * _square(deviations).sum(), (count - 1) * _square(numbers).sum())
        sums.append(torch.stack(both))
    # Some devices have no float64, so blocks are added up on the host.
    between, size = torch.stack(sums).cpu().double().sum(dim=0).tolist()
    return between, size, int(torch.stack(equal).sum())


def _square(numbers: Tensor) -> Tensor:
    # Complex numbers have a modulus.
    return (numbers * numbers.conj()).real
