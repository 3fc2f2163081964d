"""The graph of axes: which dimensions of a module's parameters are permuted together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor, nn

from lit_share.alignment._blocks import Block
from lit_share.alignment._errors import AlignError
from lit_share.alignment._permute import (
    Dimensions,
    Permutations,
    compose,
    invert,
    overwrite,
    permute_tensor,
)
from lit_share.text import suggest


@dataclass(frozen=True)
class Occurrence:
    """A dimension of a tensor in which a free axis occurs.

    Attributes:
        name: A parameter or buffer.
        dim: Its dimension.
    """

    name: str
    dim: int


@dataclass(frozen=True)
class FreeAxis:
    """Units that may be permuted without a change of the outputs.

    Attributes:
        index: The number of the axis in its graph.
        name: The dimension of the first parameter that has it, as ``"fc1.weight[0]"``. If it is
            not all of that dimension, the positions of its units follow, as a slice:
            ``"q.weight[0][0:64:8]"`` are heads of 8 dimensions.
        size: The number of units, at least 2.
        occurrences: The dimensions in which it occurs; `AxisGraph.factor_view` returns where.
        within: The index of an axis beside each unit of which this one may have a permutation of
            its own, as the dimensions of each head, or ``None``.
    """

    index: int
    name: str
    size: int
    occurrences: tuple[Occurrence, ...]
    within: int | None = None


class Factors(NamedTuple):
    """Units of a dimension that are a product of axes.

    Attributes:
        where: What indexes the dimension to get these units: a slice, or positions if they do not
            lie side by side.
        sizes: The size of each factor, in row-major order; their product is the number of units.
        axes: The index of the free axis of each factor, or ``None`` for one that stays in order.
    """

    where: slice | Tensor
    sizes: tuple[int, ...]
    axes: tuple[int | None, ...]


@dataclass(frozen=True)
class AxisGraph:
    """Which dimensions of a module's parameters and buffers are permuted together.

    Graphs of modules with the same computation and shapes are equal; `same_structure` says what
    differs.

    Attributes:
        free: The axes that may be permuted, in the order of the parameters.
        pinned: Why dimensions stay in order, by names as ``"fc3.weight[0]"``.
        unused: Parameters that the computation does not read.
        shapes: The shape of each parameter and buffer, by name.
        dimensions: The blocks of each dimension of each parameter and buffer.
        operations: What is computed, in order, and in which layer.
        activations: The blocks of each dimension of what each operation returns, by the name of
            its node in the exported graph.
    """

    free: list[FreeAxis]
    pinned: dict[str, str]
    unused: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    dimensions: dict[str, Dimensions] = field(repr=False)
    operations: tuple[tuple[str, str], ...] = field(repr=False)
    activations: dict[str, Dimensions] = field(repr=False, default_factory=dict)

    def factor_view(self, name: str, dim: int) -> list[Factors]:
        """Return a dimension as a sum of products, so that free axes become dimensions.

        With one of the results, ``tensor[where].unflatten(0, sizes)`` of dimension 0 has a
        dimension for each axis.

        Args:
            name: A parameter or buffer.
            dim: Its dimension, from 0 or from −1 backwards.

        Returns:
            Terms that together have each position of the dimension once.

        Raises:
            AlignError: If there is no such parameter or dimension.

        Example:
            >>> from lit_share.alignment import axis_graph
            >>> module = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2))
            >>> axis_graph(module, torch.zeros(1, 1, 3, 3)).factor_view("2.weight", 1)
            [Factors(where=slice(0, 12, None), sizes=(3, 4), axes=(0, None))]
        """
        self._check_name(name)
        found = self.dimensions[name]
        if not -len(found) <= dim < len(found):
            raise AlignError(f"{name!r} of shape {self.shapes[name]} has no dimension {dim}")
        return [Factors(_where(block), block.sizes, block.axes) for block in found[dim]]

    def permute(
        self, tensors: Mapping[str, Tensor], permutations: Permutations
    ) -> dict[str, Tensor]:
        r"""Return tensors whose units are permuted, :math:`W'_{ij} = W_{p(i) q(j)}`.

        Args:
            tensors: Tensors by the names of parameters and buffers, of their shapes, as weights,
                gradients or states of an optimizer.
            permutations: From indices of free axes to which unit comes to each position: a vector
                of the axis's size. An axis within another one of n units may have a matrix
                (n, size), whose row i is for the unit that comes to position i. Axes that are not
                named stay as they are.

        Returns:
            New tensors under the same names.

        Raises:
            AlignError: If a name, a shape or a permutation does not fit.

        Example:
            >>> from lit_share.alignment import axis_graph
            >>> module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
            >>> graph = axis_graph(module, torch.zeros(1, 1))
            >>> weights = {"0.weight": torch.tensor([[1.0], [2.0]])}
            >>> graph.permute(weights, {0: torch.tensor([1, 0])})
            {'0.weight': tensor([[2.],
                    [1.]])}
        """
        self._check_permutations(permutations)
        return {
            name: self._permuted(name, tensor, permutations) for name, tensor in tensors.items()
        }

    @torch.no_grad()
    def permute_(self, module: nn.Module, permutations: Permutations) -> None:
        """Permute the units of a module in place: its Parameters and buffers stay the same objects.

        Args:
            module: The module of which this is the graph, or another one of the same structure.
            permutations: As for `permute`.

        Raises:
            AlignError: If the module or a permutation does not fit, before anything is changed.
        """
        # A parameter under several names is listed, and permuted, once.
        tensors = dict(chain(module.named_parameters(), module.named_buffers()))
        for name, moved in self.permute(tensors, permutations).items():
            overwrite(tensors[name], moved)

    def invert(self, permutations: Permutations) -> dict[int, LongTensor]:
        """Return the permutations that undo others."""
        self._check_permutations(permutations)
        return invert(permutations, self._parents())

    def compose(self, first: Permutations, then: Permutations) -> dict[int, LongTensor]:
        """Return the permutations that do the same as two, one after the other."""
        self._check_permutations(first)
        self._check_permutations(then)
        return compose(first, then, self._parents())

    def _parents(self) -> dict[int, int]:
        return {axis.index: axis.within for axis in self.free if axis.within is not None}

    def _permuted(self, name: str, tensor: Tensor, permutations: Permutations) -> Tensor:
        self._check_name(name)
        if tuple(tensor.shape) != self.shapes[name]:
            raise AlignError(
                f"{name!r} must have the shape {self.shapes[name]}, got {tuple(tensor.shape)}"
            )
        return permute_tensor(tensor, self.dimensions[name], permutations, self._parents())

    def _check_name(self, name: str) -> None:
        if name not in self.shapes:
            raise AlignError(f"no parameter or buffer {name!r}{suggest(name, self.shapes)}")

    def _check_permutations(self, permutations: Permutations) -> None:
        for index, permutation in permutations.items():
            if not 0 <= index < len(self.free):
                raise AlignError(f"no free axis {index}: there are {len(self.free)}")
            axis = self.free[index]
            shapes: list[tuple[int, ...]] = [(axis.size,)]
            if axis.within is not None:
                shapes.append((self.free[axis.within].size, axis.size))
            if tuple(permutation.shape) not in shapes:
                wanted = " or ".join(map(str, shapes))
                raise AlignError(
                    f"the permutation of {axis.name} must have the shape {wanted}, "
                    f"got {tuple(permutation.shape)}"
                )
            units = torch.arange(axis.size, device=permutation.device)
            if not torch.equal(permutation.sort(-1).values, units.expand_as(permutation)):
                raise AlignError(
                    f"the permutation of {axis.name} must have each of 0 … {axis.size - 1} once"
                )


def same_structure(a: AxisGraph, b: AxisGraph) -> None:
    """Raise an error unless two modules have the same parameters and the same computation.

    Raises:
        AlignError: Naming the first difference.
    """
    for name in chain(a.shapes, b.shapes):
        if a.shapes.get(name) != b.shapes.get(name):
            raise AlignError(
                f"{name!r} has the shape {a.shapes.get(name)} in one module and "
                f"{b.shapes.get(name)} in the other: only modules of one structure correspond"
            )
    if len(a.operations) != len(b.operations):
        raise AlignError(
            f"one module computes {len(a.operations)} operations and the other "
            f"{len(b.operations)}: only modules of one structure correspond"
        )
    for (op, layer), (other_op, other_layer) in zip(a.operations, b.operations, strict=True):
        if (op, layer) != (other_op, other_layer):
            raise AlignError(
                f"one module computes {op} in {layer} where the other computes {other_op} in "
                f"{other_layer}: only modules of one structure correspond"
            )
    for name in a.dimensions:
        if a.dimensions[name] != b.dimensions[name]:
            raise AlignError(f"the units of {name!r} are free in one module and not in the other")


def _where(block: Block[int]) -> slice | Tensor:
    positions = block.positions().flatten()
    count = len(positions)
    if torch.equal(positions, torch.arange(block.start, block.start + count, device="cpu")):
        return slice(block.start, block.start + count)
    return positions
