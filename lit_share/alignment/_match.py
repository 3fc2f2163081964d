"""Match the units of a module to those of another one by their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import LongTensor, Tensor, nn

from lit_share.aliases import Inputs
from lit_share.alignment._blocks import Block
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, FreeAxis
from lit_share.alignment._observe import observe
from lit_share.alignment._permute import Dimensions, Permutations, compose, permute_tensor

# Units of which fewer numbers are known are compared by all their numbers, in sorted order.
_MIN_FEATURES = 2
# A smaller gain, relative to the largest similarity, is rounding.
_MIN_GAIN = 1e-6
# Numbers that are converted to float64 at a time, and rows of costs that are computed at a time:
# copies of a whole weight would take more memory than the models.
_NUMBERS, _ROWS = 2**16, 64
# Rounds always end, as each gain makes the sum larger; more than this has never been seen.
_MAX_ROUNDS = 100


class Cell(NamedTuple):
    """A part of a parameter in which each dimension is a product of axes."""

    name: str
    blocks: tuple[Block[int], ...]

    @property
    def axes(self) -> list[int | None]:
        """The axis of each dimension of `view`."""
        return [axis for block in self.blocks for axis in block.axes]

    def view(self, tensor: Tensor) -> Tensor:
        """Return the cell of a tensor, with a dimension for each factor, as a view."""
        sizes: list[int] = []
        strides: list[int] = []
        offset = tensor.storage_offset()
        for block, stride in zip(self.blocks, tensor.stride(), strict=True):
            sizes += block.sizes
            strides += [stride * own for own in block.strides]
            offset += stride * block.start
        return tensor.as_strided(sizes, strides, offset)


def weights_on_host(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module as `match_weights` takes them."""
    return {name: p.detach().cpu() for name, p in module.named_parameters()}


def match_weights(
    graph: AxisGraph,
    reference: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    seed: int = 0,
    inwards: bool = True,
) -> dict[int, LongTensor]:
    r"""Return permutations of free axes that bring weights as near to others as they can.

    .. math::
        \max_P \sum_l \langle W^{\text{ref}}_l,\; P_l W_l P_{l-1}^\top \rangle
        \quad\Leftrightarrow\quad
        \min_P \sum_l \lVert W^{\text{ref}}_l - P_l W_l P_{l-1}^\top \rVert^2

    One axis at a time, this is a linear assignment problem, which is solved exactly. Axes are
    matched from the pinned ones inwards first, each by the dimensions that are known by then, and
    then in turn, in random order, until none of them brings the weights nearer: a local optimum.
    Heads are matched together with the order of the dimensions within each of them.

    Args:
        graph: The graph of axes of both modules.
        reference: The parameters of one module, by name.
        weights: The parameters of the other, by the same names. They are not written to.
        seed: The seed of the order in which axes are matched.
        inwards: Whether axes are matched from the pinned ones inwards first. Weights that
            correspond already need no such beginning.

    Returns:
        A permutation of every free axis, as `AxisGraph.permute` takes them for ``weights``.

    Example:
        >>> from torch import nn
        >>> from lit_share.alignment import axis_graph
        >>> module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> graph = axis_graph(module, torch.zeros(1, 2))
        >>> reference = {name: p.detach() for name, p in module.named_parameters()}
        >>> moved = graph.permute(reference, {0: torch.tensor([2, 0, 1])})
        >>> match_weights(graph, reference, moved)
        {0: tensor([1, 2, 0])}

    Source: Git Re-Basin (Ainsworth, Hayase & Srinivasa 2023), Algorithm 1.
    """
    matcher = _Matcher(graph.free, graph.dimensions, reference, weights)
    if inwards:
        matcher.match_inwards()
    matcher.improve({axis.index for axis in graph.free}, torch.Generator().manual_seed(seed))
    return matcher.permutations


def match_activations(
    graph: AxisGraph,
    reference: tuple[nn.Module, Inputs],
    other: tuple[nn.Module, Inputs],
    seed: int = 0,
) -> dict[int, LongTensor]:
    r"""Return permutations of free axes that make activations correlate most.

    With :math:`z` the activations of an axis at the last operation that returns it, each unit
    with mean 0 and variance 1 over samples, sites and steps,

    .. math:: \max_P \sum_s \langle z^{\text{ref}}_s,\; P z_s \rangle

    Axes that no operation returns, as those between the layers of one LSTM, are matched by their
    weights then.

    Args:
        graph: The graph of axes of both modules.
        reference: A module and its inputs.
        other: The other module, and inputs for which it should compute the same.
        seed: The seed of the order in which axes are matched.

    Returns:
        A permutation of every free axis, as `AxisGraph.permute` takes them for ``other``.

    Source: Li, Yosinski, Clune, Lipson, Hopcroft: *Convergent Learning*, ICLR 2016; Git Re-Basin,
    section 3.1.
    """
    ours, theirs = (observe(module, inputs, graph) for module, inputs in (reference, other))
    for name in ours:
        if ours[name].shape != theirs[name].shape:
            raise AlignError(
                f"activations have the shape {tuple(ours[name].shape)} in one member and "
                f"{tuple(theirs[name].shape)} in the other: give both inputs of one shape, or "
                'match by="weights"'
            )
    if ours and not any(found.any() for found in ours.values()):
        raise AlignError(
            "no activation varies over the inputs, or none is finite, so that units cannot be "
            'matched by them: give several different samples, or match by="weights"'
        )
    dimensions = {name: graph.activations[name] for name in ours}
    generator = torch.Generator().manual_seed(seed)
    matcher = _Matcher(graph.free, dimensions, ours, theirs)
    matcher.match_inwards()
    matcher.improve({axis.index for axis in graph.free}, generator)
    hidden = {axis for axis, cells in matcher.cells.items() if not cells}
    if not hidden:
        return matcher.permutations
    both = [weights_on_host(module) for module, _ in (reference, other)]
    by_weights = _Matcher(graph.free, graph.dimensions, *both)
    by_weights.move({k: v for k, v in matcher.permutations.items() if k not in hidden})
    by_weights.match_inwards(hidden)
    by_weights.improve(hidden, generator)
    return by_weights.permutations


def similarities(
    graph: AxisGraph, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[int, float]:
    """Return for each free axis the cosine between all weights of its units in two modules."""
    matcher = _Matcher(graph.free, graph.dimensions, reference, weights)
    found = {}
    for axis, cells in matcher.cells.items():
        between = size = other_size = 0.0
        for cell in cells:
            ours, theirs = cell.view(reference[cell.name]), cell.view(weights[cell.name])
            between += _inner_product(ours, theirs)
            size += _inner_product(ours, ours)
            other_size += _inner_product(theirs, theirs)
        found[axis] = between / max(math.sqrt(size * other_size), 1e-300)
    return found


def _inner_product(x: Tensor, y: Tensor) -> float:
    """Return the inner product of two tensors of one shape, in float64."""
    pairs = zip(x.reshape(-1).split(_NUMBERS), y.reshape(-1).split(_NUMBERS), strict=True)
    return math.fsum(float(own.double() @ other.double()) for own, other in pairs)


CellsOf = Callable[[int, Collection[int]], Sequence[Cell]]


class _Matcher:
    """The permutations found so far, and weights that are permuted by them."""

    def __init__(
        self,
        free: Sequence[FreeAxis],
        dimensions: Mapping[str, Dimensions],
        reference: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> None:
        self.free, self.dimensions = free, dimensions
        self.reference, self.weights = reference, dict(weights)
        self.parents = {axis.index: axis.within for axis in free if axis.within is not None}
        self.children = {
            axis.index: [child for child in free if child.within == axis.index] for axis in free
        }
        self.permutations: dict[int, LongTensor] = {}
        for axis in free:
            order = torch.arange(axis.size, device="cpu")
            if axis.within is not None:
                order = order.expand(free[axis.within].size, -1).clone()
            self.permutations[axis.index] = order  # type: ignore[assignment]
        # Each cell is looked at once for each axis, though an axis may be in two of its dimensions.
        self.cells: dict[int, list[Cell]] = {axis.index: [] for axis in free}
        for name in reference:
            for blocks in product(*dimensions[name]):
                cell = Cell(name, blocks)
                for index in dict.fromkeys(cell.axes):
                    if index is not None:
                        self.cells[index].append(cell)

    def match_inwards(self, axes: Collection[int] | None = None) -> None:
        """Match each of these axes once, beginning with those whose neighbours are known."""
        unknown = {axis.index for axis in self.free if axes is None or axis.index in axes}
        waiting = [axis for axis in self.free if axis.index in unknown and axis.within is None]
        while waiting:
            best = max(waiting, key=lambda axis: self._known_features(axis, unknown))
            cells_of = self._known_cells
            if self._known_features(best, unknown) < _MIN_FEATURES:
                cells_of = self._all_cells
            self.move(self._match(best, unknown, cells_of))
            unknown -= {best.index, *(child.index for child in self.children[best.index])}
            waiting.remove(best)

    def improve(self, axes: Collection[int], generator: torch.Generator) -> None:
        """Match these axes in random order until none of them brings the weights nearer."""
        # An axis is matched again only if an axis in one of its tensors has moved since.
        stale = set(axes)
        for _ in range(_MAX_ROUNDS):
            if not stale:
                return
            order = torch.randperm(len(self.free), generator=generator, device="cpu")
            for i in order.tolist():
                if i in stale:
                    stale.discard(i)
                    moved = self._match_again(self.free[i])
                    stale |= self._neighbours(moved) & set(axes)

    def _match_again(self, axis: FreeAxis) -> Collection[int]:
        """Match the units of one axis; return the axes that moved, which brings weights nearer."""
        if axis.within is None:
            moved = self._match(axis, set(), self._all_cells)
        else:
            moved = {axis.index: self._match_within(axis)}
        names = {cell.name for index in moved for cell in self.cells[index]}
        before, weights, permutations = self._similarity(names), self.weights, self.permutations
        self.move(moved)
        # Where two axes within the same one have a tensor in common, their scores are estimates.
        if self._similarity(names) > before + _MIN_GAIN * abs(before):
            return moved
        self.weights, self.permutations = weights, permutations
        return ()

    def _similarity(self, names: Collection[str]) -> float:
        return sum(_inner_product(self.reference[name], self.weights[name]) for name in names)

    def _neighbours(self, axes: Collection[int]) -> set[int]:
        """Return the axes of all tensors that these axes are in."""
        cells = (cell for axis in axes for cell in self.cells[axis])
        return {axis for cell in cells for axis in cell.axes if axis is not None}

    def _match(
        self, axis: FreeAxis, unknown: Collection[int], cells_of: CellsOf
    ) -> dict[int, LongTensor]:
        """Return the best order of the units of an axis, and of those within each of them."""
        children = {child.index: child.size for child in self.children[axis.index]}
        costs = torch.zeros(axis.size, axis.size, dtype=torch.float64, device="cpu")
        for cell in cells_of(axis.index, set(unknown) - {axis.index}):
            if not set(children).intersection(cell.axes):
                ours, theirs = self._features(cell, [axis.index], set(unknown) - {axis.index})
                for own, rows in zip(ours.split(_ROWS), costs.split(_ROWS), strict=True):
                    rows -= own @ theirs.T
                del ours, theirs
        orders: dict[int, Tensor] = {}
        for child, inner in children.items():
            shape = (axis.size, axis.size, inner)
            orders[child] = torch.empty(shape, dtype=torch.long, device="cpu")
            own = self._features_within(child, axis.index, unknown, cells_of)
            for i in range(axis.size):
                for j in range(axis.size):
                    similarity = _similarity_within(own, i, j)
                    order = _assign(-similarity)
                    orders[child][i, j] = order
                    costs[i, j] -= similarity.gather(1, order[:, None]).sum()
        best = _assign(costs)
        rows = torch.arange(axis.size, device="cpu")
        within = {child: found[rows, best] for child, found in orders.items()}
        return {axis.index: best, **within}  # type: ignore[dict-item]

    def _match_within(self, child: FreeAxis) -> LongTensor:
        """Return the best order of units within each unit of another axis, which stay."""
        assert child.within is not None
        own = self._features_within(child.index, child.within, set(), self._all_cells)
        rows: list[Tensor] = [
            _assign(-_similarity_within(own, i, i)) for i in range(self.free[child.within].size)
        ]
        return torch.stack(rows)  # type: ignore[return-value]

    def move(self, moved: Permutations) -> None:
        """Permute the weights, and note it in ``permutations``."""
        names = {cell.name for index in moved for cell in self.cells[index]}
        changed = {
            name: permute_tensor(self.weights[name], self.dimensions[name], moved, self.parents)
            for name in names
        }
        self.weights = self.weights | changed
        self.permutations = compose(self.permutations, moved, self.parents)

    def _features_within(
        self, child: int, parent: int, unknown: Collection[int], cells_of: CellsOf
    ) -> list[tuple[Tensor, Tensor]]:
        others = set(unknown) - {child, parent}
        # All numbers of these units may depend on axes that are not matched yet.
        cells = cells_of(child, others) or self.cells[child]
        return [self._features(cell, [parent, child], others) for cell in cells]

    def _features(
        self, cell: Cell, axes: Sequence[int], unknown: Collection[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the numbers of each unit of ``axes`` in both modules; see `_flattened`."""
        both = (self.reference[cell.name], self.weights[cell.name])
        ours, theirs = (_flattened(cell, tensor, axes, unknown) for tensor in both)
        return ours, theirs

    def _all_cells(self, axis: int, unknown: Collection[int]) -> Sequence[Cell]:  # noqa: ARG002
        return self.cells[axis]

    def _known_cells(self, axis: int, unknown: Collection[int]) -> Sequence[Cell]:
        return [cell for cell in self.cells[axis] if not set(unknown).intersection(cell.axes)]

    def _known_features(self, axis: FreeAxis, unknown: Collection[int]) -> int:
        """Return the count of numbers of each unit that do not depend on unmatched axes."""
        own = [axis.index, *(child.index for child in self.children[axis.index])]
        others = set(unknown) - set(own)
        count = 0
        for index in own:
            for cell in self._known_cells(index, others):
                # A number at (i, i') of one axis depends on its own order.
                if cell.axes.count(index) == 1:
                    count += cell.view(self.reference[cell.name]).numel() // axis.size
        return count


def _flattened(cell: Cell, tensor: Tensor, axes: Sequence[int], unknown: Collection[int]) -> Tensor:
    """Return a cell with ``axes`` first and all other dimensions flattened into one.

    Numbers along unmatched axes are sorted, so that they are the same in any order of the units.
    """
    view = cell.view(tensor)
    first = [cell.axes.index(axis) for axis in axes]
    rest = [i for i in range(view.ndim) if i not in first]
    known = [i for i in rest if cell.axes[i] not in unknown]
    unmatched = [i for i in rest if cell.axes[i] in unknown]
    shape = [view.shape[i] for i in first]
    moved = view.permute(*first, *known, *unmatched)
    if unmatched:
        # torch would return the order, too, which takes twice the memory of the numbers.
        numbers = moved.flatten(len(first) + len(known)).float().numpy()
        moved = torch.from_numpy(np.sort(numbers, axis=-1))
    return moved.reshape(*shape, -1).float()


def _similarity_within(pairs: Sequence[tuple[Tensor, Tensor]], i: int, j: int) -> Tensor:
    """Return the inner products of units within unit ``i`` with those within unit ``j``."""
    return torch.stack([ours[i] @ theirs[j].T for ours, theirs in pairs]).sum(0)


def _assign(costs: Tensor) -> LongTensor:
    """Return for each row the column that is assigned to it, with the least total."""
    # SciPy copies a matrix that is not float64, or that it has to maximize.
    _, columns = linear_sum_assignment(costs.double().numpy())
    return torch.from_numpy(columns)  # type: ignore[return-value]
