"""Drop the units of a module that its outputs do not depend on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_share import codebooks
from lit_share.aliases import Inputs, has_hooks
from lit_share.alignment._align import check_dense, check_same_twice
from lit_share.alignment._build import axis_graph
from lit_share.alignment._cut import cut_units
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, FreeAxis
from lit_share.alignment._needed import needed
from lit_share.alignment._permute import Dimensions
from lit_share.alignment._run import check_outputs, named_tensors, run
from lit_share.ties import unwrapped

_LOG = logging.getLogger("lit_share")
_HOOKS = "is in a layer with hooks"


@dataclass(frozen=True)
class DropReport:
    """What `drop_units` dropped; its text says it in lines.

    Attributes:
        dropped: The number of units dropped, and that before, by the name of their axis.
        kept: Why axes keep units that the outputs do not depend on, by name.
        pinned: Why units of other dimensions were not looked at, by names as ``"fc3.weight[0]"``.
    """

    dropped: Mapping[str, tuple[int, int]]
    kept: Mapping[str, str]
    pinned: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: {n} of {size} units dropped" for name, (n, size) in self.dropped.items()]
        lines += [f"{name}: unread units stay: {why}" for name, why in self.kept.items()]
        lines += [f"{name}: stays as it is, as {why}" for name, why in self.pinned.items()]
        return "\n".join(lines)


@torch.inference_mode(False)
def compact(module: nn.Module, inputs: Inputs | None = None) -> nn.Module:
    """Drop numbers that the outputs do not depend on, and store equal rows once.

    - Units that nothing reads are removed, with their biases and normalization. With ``inputs``,
      that is done by `drop_units`, for any module that `torch.export` can trace: residual nets,
      concatenations and attention, too. What it did, and what it could not look at, is logged by
      the logger ``"lit_share"`` at the level INFO.
    - `lit_share.codebooks.compact_layers` does the rest. Without ``inputs`` it is all that is done:
      units are removed between two layers that follow each other. Then rows of zeros are dropped,
      and equal rows become one row of a codebook layer.

    The outputs of ``forward`` stay the same up to rounding. Parameters are replaced: make a new
    optimizer.

    Args:
        module: The module, changed in place.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keyword
            arguments.

    Returns:
        The module; if it is a single layer, the layer that replaces it.

    Raises:
        AlignError: If the module cannot be traced on these inputs; it is unchanged then.

    Example:
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.mid, self.out = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 2)
        ...     def forward(self, x):
        ...         x = self.up(x)
        ...         return self.out(x + self.mid(x).relu())
        >>> net = Residual()
        >>> with torch.no_grad():
        ...     net.mid.weight[:, 5:], net.out.weight[:, 5:] = 0.0, 0.0
        >>> compact(net, torch.zeros(1, 6)).mid
        Linear(in_features=5, out_features=5, bias=True)
    """
    if inputs is not None:
        try:
            report = drop_units(module, inputs)
        except AlignError as error:
            raise AlignError(f"{error} (or call compact without inputs)") from None
        _LOG.info("compact:\n%s", report)
    return codebooks.compact_layers(module)


@torch.inference_mode(False)
def drop_units(module: nn.Module, inputs: Inputs) -> DropReport:
    r"""Remove the units that the outputs do not depend on, in place.

    A unit goes, from all tensors in which its axis occurs (see `axis_graph`), if neither in
    evaluation nor in training anything depends on it: each sum of products multiplies it by
    weights of zero, or it is zero for all inputs. Statistics over units, as layer normalization
    and softmax, depend on all of them. An axis keeps at least one unit.

    What is left is traced again: its axes have to be those from before, and its outputs may differ
    by :math:`10^{-5}` of the largest. Axes that fail this, as those whose size the code names, keep
    their units, and the report says why. Layers with hooks keep theirs.

    Args:
        module: A module that `torch.export` can trace. Its Parameters are replaced.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keyword
            arguments.

    Returns:
        What was dropped, and what was not.

    Raises:
        AlignError: If the module cannot be traced in both modes, is random in evaluation mode, or
            has sharded parameters. Nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 2))
        >>> with torch.no_grad():
        ...     net[2].weight[:, 10:] = 0.0
        >>> print(drop_units(net, torch.zeros(1, 6)))
        0.weight[0]: 30 of 40 units dropped
        0.weight[1]: stays as it is, as an input of the model
        2.weight[0]: stays as it is, as an output of the model
        2.bias[0]: stays as it is, as an output of the model
    """
    module = unwrapped(module)
    check_dense(type(module).__name__, module)
    # A hook may read or write what the traced computation does not show.
    pinned = [
        name
        for name in named_tensors(module)
        if has_hooks(module.get_submodule(name.rpartition(".")[0]))
    ]
    trial = _Trial(module, inputs, pinned)
    unread, kept = trial.find_unread()
    dropped = trial.largest_part([], list(unread), unread, kept)
    if dropped:
        cut_units(module, trial.graph, {axis: ~unread[axis] for axis in dropped})
    axes = [trial.graph.free[index] for index in dropped]
    sizes = {axis.name: (int(unread[axis.index].sum()), axis.size) for axis in axes}
    return DropReport(sizes, kept, trial.graph.pinned)


class _Trial:
    """A module that is cut to see whether it stays what it was, and made whole again."""

    def __init__(self, module: nn.Module, inputs: Inputs, pinned: Sequence[str]) -> None:
        self.module, self.inputs, self.pinned = module, inputs, pinned
        self.graph, self.in_training = self.graphs()
        self.before = run(module, inputs)
        check_same_twice(module, self.before, inputs)

    def graphs(self) -> list[AxisGraph]:
        """Return the graphs in evaluation and in training."""
        return [
            axis_graph(self.module, self.inputs, pinned=self.pinned, why=_HOOKS, training=training)
            for training in (False, True)
        ]

    def find_unread(self) -> tuple[dict[int, Tensor], dict[str, str]]:
        """Return masks of unread units by axis, and why other axes keep theirs."""
        # After training goes on, a unit that is read in training only would be missed.
        needs = _needed_units(self.graph, *needed(self.module, self.inputs))
        others = _needed_units(self.in_training, *needed(self.module, self.inputs, training=True))
        by_axis = {_key(axis): others[axis.index] for axis in self.in_training.free}
        unread: dict[int, Tensor] = {}
        kept: dict[str, str] = {}
        for axis in self.graph.free:
            found = ~needs[axis.index]
            if found.any() and _key(axis) not in by_axis:
                kept[axis.name] = "the forward treats them in another way in training"
                continue
            found &= ~by_axis.get(_key(axis), found)
            found[0] &= not found.all()  # torch's layers need at least one unit
            if found.any():
                unread[axis.index] = found
        return unread, kept

    def largest_part(
        self, good: list[int], axes: list[int], unread: Mapping[int, Tensor], kept: dict[str, str]
    ) -> list[int]:
        """Return the axes that can be cut together, and note why others cannot."""
        if not axes:
            return good
        reason = self.why_not({axis: ~unread[axis] for axis in [*good, *axes]})
        if reason is None:
            return [*good, *axes]
        if len(axes) == 1:
            kept[self.graph.free[axes[0]].name] = reason
            return good
        # Mostly all axes can be cut, and then one trial is enough.
        half = len(axes) // 2
        good = self.largest_part(good, axes[:half], unread, kept)
        return self.largest_part(good, axes[half:], unread, kept)

    def why_not(self, keep: Mapping[int, Tensor]) -> str | None:
        """Return why units cannot be cut, or ``None`` if they can; the module is whole again."""
        sizes = {_key(self.graph.free[axis]): int(mask.sum()) for axis, mask in keep.items()}
        undo = cut_units(self.module, self.graph, keep)
        try:
            check_outputs(self.module, self.before, self.inputs, _tolerance(self.before))
            # Outputs on one input do not show that code which names positions got other units.
            for old, new in zip((self.graph, self.in_training), self.graphs(), strict=True):
                wanted = [(sizes.get(_key(a), a.size), a.occurrences) for a in old.free]
                found = [(a.size, a.occurrences) for a in new.free]
                if new.operations != old.operations or found != [w for w in wanted if w[0] > 1]:
                    return "the code would treat other units in their places"
        except AlignError as error:
            return str(error)
        finally:
            undo()
        return None


def _key(axis: FreeAxis) -> tuple[object, ...]:
    return axis.name, axis.size, axis.occurrences


def _tolerance(outputs: Mapping[str, Tensor]) -> float:
    # A sum of fewer terms is rounded differently.
    types = [value.dtype for value in outputs.values() if value.is_floating_point()]
    return max([1e-5, *(4.0 * torch.finfo(dtype).eps for dtype in types)])


def _needed_units(
    graph: AxisGraph, tensors: Mapping[str, Tensor], results: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """Return for each axis which of its units are needed, given which numbers are."""
    found = {
        axis.index: torch.zeros(axis.size, dtype=torch.bool, device="cpu") for axis in graph.free
    }
    for masks, dimensions in ((tensors, graph.dimensions), (results, graph.activations)):
        for name, mask in masks.items():
            if name in dimensions:
                _add_units(found, mask, dimensions[name])
    return found


def _add_units(found: dict[int, Tensor], mask: Tensor, dimensions: Dimensions) -> None:
    for dim, blocks in enumerate(dimensions):
        positions = mask.movedim(dim, 0).reshape(mask.shape[dim], -1).any(1)
        for block in blocks:
            units = positions[block.positions()]
            for factor, axis in enumerate(block.axes):
                if axis is not None:
                    found[axis] |= units.movedim(factor, 0).reshape(len(found[axis]), -1).any(1)
