"""Observe the activations of a module's units."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_share.aliases import Inputs, evaluating
from lit_share.alignment._export import export, placeholder_values
from lit_share.alignment._graph import AxisGraph
from lit_share.alignment._permute import Dimensions


def observe(module: nn.Module, inputs: Inputs, graph: AxisGraph) -> dict[str, Tensor]:
    """Return activations in which each free axis occurs, where any operation returns it.

    Args:
        module: A module.
        inputs: Its inputs.
        graph: Its graph of axes.

    Returns:
        Tensors on the host by the names in ``graph.activations``, each unit with mean 0 and
        variance 1.
    """
    # The last operation on an axis returns it after normalization and nonlinearities.
    last = {axis: name for name, found in graph.activations.items() for axis in _axes_of(found)}
    program = export(module, inputs)
    given = [
        # An operation in place may write to an input.
        value.clone() if is_input and isinstance(value, Tensor) else value
        for value, is_input in placeholder_values(program, module, inputs)
    ]
    recorder = _Recorder(program.graph_module, set(last.values()))
    with evaluating(module):
        recorder.run(*given)
    return {
        name: _standardized(activation, graph.activations[name])
        for name, activation in recorder.found.items()
    }


def _axes_of(dimensions: Dimensions) -> set[int]:
    axes = chain.from_iterable(block.axes for blocks in dimensions for block in blocks)
    return {axis for axis in axes if axis is not None}


class _Recorder(fx.Interpreter):
    """Runs a graph, and keeps the results of some of its nodes."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names = names
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            # An operation in place may write to the result later.
            self.found[n.name] = result.detach().float().cpu().clone()
        return result


def _standardized(activation: Tensor, dimensions: Dimensions) -> Tensor:
    """Return activations of mean 0 and variance 1 over the dimensions without units."""
    samples = [
        dim
        for dim, blocks in enumerate(dimensions)
        if all(axis is None for block in blocks for axis in block.axes)
    ]
    if not samples:
        return activation
    centered = activation - activation.mean(samples, keepdim=True)
    size = centered.square().mean(samples, keepdim=True).sqrt()
    # Units that never change say nothing, and correlate with none.
    return torch.where(size > 0.0, centered / size, 0.0)
