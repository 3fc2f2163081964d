"""Build the graph of axes of a module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from torch import nn

from lit_share.aliases import Inputs
from lit_share.alignment._axes import Axis, leaves
from lit_share.alignment._blocks import Block, blocks
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, FreeAxis, Occurrence
from lit_share.alignment._permute import Dimensions
from lit_share.alignment._run import named_tensors
from lit_share.alignment._trace import trace
from lit_share.alignment._walk import Traced
from lit_share.alignment._within import find_parents
from lit_share.text import suggest


def axis_graph(
    module: nn.Module,
    inputs: Inputs,
    *,
    pinned: Collection[str] = (),
    why: str = "stays in order as asked for",
    training: bool = False,
) -> AxisGraph:
    r"""Return which units of a module may be permuted, derived from what it computes.

    Hidden units have no order: with permutations P of the units of each layer, the weights
    :math:`P_l W_l P_{l-1}^\top` and biases :math:`P_l b_l` compute the same outputs. The module is
    traced on example inputs, and the dimensions of its parameters are united where its operations
    demand it: by additions, normalization, groups, heads, gates, reshapes and concatenations.
    Inputs and outputs stay in order, and so does what an operation treats by its position. An
    operation that is not known keeps all of its tensors in order.

    An axis within another axis (`FreeAxis.within`) may be permuted differently beside each unit of
    the other: heads h and their dimensions d move as :math:`(h, d) \to (\pi(h), \sigma_h(d))`, and
    so do groups of a convolution and their channels. The dimensions of queries are those of keys;
    values have their own.

    Everything that the module returns stays in order, whether or not it is read. If a module
    returns hidden units, call it with arguments that leave them out, or wrap it.

    Buffers that are saved, as the statistics of batch normalization, move with the parameters.
    Those that are not saved are constants, and stay in order.

    Args:
        module: A module that `torch.export` can trace. It is not changed.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keyword
            arguments. Their values do not matter, their shapes little.
        pinned: Names of parameters and buffers that have to stay in order.
        why: What `AxisGraph.pinned` says of these, after their name.
        training: Whether to trace what the module computes in training mode.

    Returns:
        The graph, in an order that depends on the module alone.

    Raises:
        AlignError: If the forward fails on the inputs, branches on the values of tensors, or cannot
            be traced, or ``pinned`` names no parameter or buffer.

    Example:
        >>> import torch
        >>> module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = axis_graph(module, torch.zeros(2, 4))
        >>> [(axis.name, axis.size, len(axis.occurrences)) for axis in graph.free]
        [('0.weight[0]', 8, 7)]
        >>> graph.pinned["3.weight[0]"]
        'an output of the model'

    Source: Git Re-Basin (Ainsworth, Hayase & Srinivasa 2023), section 3, where the permutations of
    an architecture are written by hand.
    """
    tensors = named_tensors(module)
    for name in pinned:
        if name not in tensors:
            raise AlignError(
                f"pinned: no parameter or buffer {name!r} in {type(module).__name__}"
                f"{suggest(name, tensors)}"
            )
    traced = trace(module, inputs, pinned, why, training)
    parameters = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    numbers = _number([traced.axes[name] for name in parameters if name in traced.read])
    dimensions = {
        name: tuple(_numbered(axis, numbers) for axis in axes) for name, axes in traced.axes.items()
    }
    return AxisGraph(
        free=_free_axes(dimensions, numbers, find_parents(traced.occurrences, numbers)),
        pinned=_pinned(traced, parameters),
        unused=traced.unused,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        dimensions=dimensions,
        operations=tuple(traced.operations),
        activations={
            name: tuple(_numbered(axis, numbers) for axis in axes)
            for name, axes in traced.activations.items()
        },
    )


def _number(tensors: list[list[Axis]]) -> dict[Axis, int]:
    """Number the free leaves of parameters in the order of their first occurrence."""
    numbers: dict[Axis, int] = {}
    for axis in chain.from_iterable(tensors):
        for part in leaves(axis):
            if part.reason is None and part.size > 1:
                numbers.setdefault(part, len(numbers))
    return numbers


def _numbered(axis: Axis, numbers: Mapping[Axis, int]) -> tuple[Block[int], ...]:
    """Return the blocks of an axis with numbers in place of leaves.

    Leaves without a number are those of no parameter that is read, and stay in order.
    """
    found = []
    for block in blocks(axis):
        axes = tuple(None if axis is None else numbers.get(axis) for axis in block.axes)
        found.append(Block(block.start, block.sizes, block.strides, axes))
    return tuple(found)


def _free_axes(
    dimensions: Mapping[str, Dimensions], numbers: Mapping[Axis, int], parents: Mapping[int, int]
) -> list[FreeAxis]:
    names: dict[int, str] = {}
    occurrences: dict[int, list[Occurrence]] = {index: [] for index in numbers.values()}
    for name, dims in dimensions.items():
        for dim, found in enumerate(dims):
            for block in found:
                for size, stride, axis in zip(block.sizes, block.strides, block.axes, strict=True):
                    if axis is None:
                        continue
                    occurrence = Occurrence(name, dim)
                    if occurrence not in occurrences[axis]:
                        occurrences[axis].append(occurrence)
                    where = ""
                    if len(found) > 1 or len(block.axes) > 1:
                        step = f":{stride}" * (stride != 1)
                        where = f"[{block.start}:{block.start + size * stride}{step}]"
                    names.setdefault(axis, f"{name}[{dim}]{where}")
    return [
        FreeAxis(index, names[index], axis.size, tuple(occurrences[index]), parents.get(index))
        for axis, index in numbers.items()
    ]


def _pinned(traced: Traced, parameters: list[str]) -> dict[str, str]:
    """Return why no unit of a dimension may be permuted, for parameters that are read."""
    reasons = {}
    for name in parameters:
        if name not in traced.read:
            continue
        for dim, axis in enumerate(traced.axes[name]):
            found = list(leaves(axis))
            if axis.size > 1 and all(part.reason is not None or part.size == 1 for part in found):
                named = [part.reason for part in found if part.reason is not None]
                reasons[f"{name}[{dim}]"] = named[0] if named else "it is read unit by unit"
    return reasons
