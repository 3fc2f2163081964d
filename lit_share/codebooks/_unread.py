"""Output units that no layer reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_share.aliases import restored
from lit_share.codebooks._layers import CODEBOOKS, ORDINARY

LAYERS = (*ORDINARY, *CODEBOOKS)
# These functions treat each number alone,
_ELEMENTWISE = {
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid,
    nn.Identity, nn.Dropout, torch.relu, torch.tanh, torch.sigmoid, nn.functional.relu,
    nn.functional.leaky_relu, nn.functional.elu, nn.functional.gelu, nn.functional.silu,
    nn.functional.tanh, nn.functional.sigmoid, nn.functional.dropout, "relu", "tanh", "sigmoid",
}  # fmt: skip
# and these each channel of an image: an output unit that is not read later can be left out.
_BY_CHANNEL = {
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout2d,
    nn.functional.max_pool2d, nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d,
    nn.functional.adaptive_max_pool2d,
}  # fmt: skip
_FLATTEN = {torch.flatten, "flatten"}

# Names of a layer, of the normalisations after it, and of the only layer that reads its outputs.
Chain = tuple[str, list[str], str]


def chains(module: nn.Module, graphs: Sequence[fx.Graph]) -> list[Chain]:
    """Return a chain for each layer whose outputs reach only one other, channel by channel."""
    modules = dict(module.named_modules(remove_duplicate=False))
    elsewhere = layers_read_elsewhere(module, graphs)
    found = [_chains_of_graph(graph, modules, elsewhere) for graph in graphs]
    if not found:
        return []
    # A module may compute something else in training than in evaluation.
    return [chain for chain in found[0] if all(chain in others for others in found)]


def layers_read_elsewhere(module: nn.Module, graphs: Sequence[fx.Graph]) -> set[nn.Module]:
    """Return the modules with parameters that other modules read in their own ``forward``."""
    layers = set()
    for graph in graphs:
        for node in graph.nodes:
            if node.op == "get_attr":
                layers.add(module.get_submodule(str(node.target).rpartition(".")[0]))
    return layers


def trace(module: nn.Module) -> list[fx.Graph]:
    """Return the graphs in training and in evaluation; ``[]`` if the module cannot be traced."""
    graphs = []
    try:
        with restored(module):
            for mode in (True, False):
                module.train(mode)
                graphs.append(_Tracer().trace(module))
    except Exception:  # the user's `forward` runs on proxies, on which anything may fail
        return []
    return graphs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def _chains_of_graph(
    graph: fx.Graph, modules: dict[str, nn.Module], elsewhere: set[nn.Module]
) -> list[Chain]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    counts = Counter(id(modules[node.target]) for node in calls)
    once = {number for number, count in counts.items() if count == 1} - set(map(id, elsewhere))
    # Later layers come first: without their unread units, earlier layers have more unread units.
    candidates = [_chain(node, modules, once) for node in reversed(calls)]
    return [chain for chain in candidates if chain is not None]


def _chain(start: fx.Node, modules: dict[str, nn.Module], once: set[int]) -> Chain | None:
    """Return the names of the layer that ``start`` calls, the batch norms after it and its reader.

    The reader is the next layer. Return ``None`` if something else reads or mixes the channels, or
    if a module is not in ``once``, the ids of modules that are called once and read nowhere else.
    """
    producer = modules[str(start.target)]
    norms: list[str] = []
    if type(producer) not in LAYERS or id(producer) not in once:
        return None
    is_image = isinstance(producer, nn.Conv2d)  # until it is flattened
    for node in _only_users(start):
        step, function = None, node.target
        if node.op == "call_module":
            step = modules[str(node.target)]
            function = type(step)
        norm = nn.BatchNorm2d if is_image else nn.BatchNorm1d
        if type(step) in LAYERS:
            if id(step) in once and isinstance(step, nn.Conv2d) == is_image:
                return str(start.target), norms, str(node.target)
            return None
        if type(step) is norm and id(step) in once:
            norms.append(str(node.target))
        elif is_image and _flattens_channels(node, step, function):
            is_image = False
        elif function not in _ELEMENTWISE and not (is_image and function in _BY_CHANNEL):
            return None
    return None


def _only_users(node: fx.Node) -> Iterator[fx.Node]:
    while len(node.users) == 1:
        (node,) = node.users
        yield node


def _flattens_channels(node: fx.Node, step: nn.Module | None, function: Any) -> bool:
    """Whether a call of the module ``step``, or of ``function``, flattens all but the batch dim."""
    if isinstance(step, nn.Flatten):
        return (step.start_dim, step.end_dim) == (1, -1)
    return function in _FLATTEN and tuple(node.args[1:]) == (1,) and not node.kwargs


def remove_unread(producer: Any, norms: list[Any], consumer: Any) -> None:
    """Remove the units of ``producer`` and ``norms`` that ``consumer`` does not read, in place."""
    unread = unread_inputs(consumer)
    units = producer.weight.shape[0]
    if len(unread) % units or any(norm.num_features != units for norm in norms):
        return
    inputs_per_unit = len(unread) // units  # the pixels of a channel, if images are flattened
    keep = ~unread.view(units, inputs_per_unit).all(dim=1)
    keep[0] |= not keep.any()  # torch's layers need at least one unit
    if keep.all():
        return
    _keep_units(producer, keep, "out_features", "out_channels")
    for norm in norms:
        _keep_units(norm, keep, "num_features")
    kept_inputs = keep.repeat_interleave(inputs_per_unit)
    if isinstance(consumer, CODEBOOKS):
        consumer.assignment = consumer.assignment[kept_inputs]
        return
    weight = consumer.weight
    consumer.weight = nn.Parameter(weight.detach()[:, kept_inputs], weight.requires_grad)
    if isinstance(consumer, nn.Conv2d):
        consumer.in_channels = int(kept_inputs.sum())
    else:
        consumer.in_features = int(kept_inputs.sum())


def _keep_units(layer: Any, keep: Tensor, *counts: str) -> None:
    """Drop units outside the mask ``keep``; set the attributes ``counts`` to the number left."""
    for tensors in (layer._parameters, layer._buffers):
        for name, tensor in tensors.items():
            # Scalars, such as the number of batches, and the inputs' assignment have no units.
            if tensor is None or not tensor.ndim or name == "assignment":
                continue
            kept = tensor.detach()[keep]
            if isinstance(tensor, nn.Parameter):
                kept = nn.Parameter(kept, tensor.requires_grad)
            tensors[name] = kept
    for count in counts:
        if hasattr(layer, count):
            setattr(layer, count, int(keep.sum()))


def unread_inputs(layer: Any) -> Tensor:
    """Return a mask of the inputs that do not matter, because all of their weights are zero."""
    zero: Tensor = ~layer.weight.detach().transpose(0, 1).flatten(1).any(dim=1)
    if not isinstance(layer, CODEBOOKS):
        return zero
    # The appended entry is for inputs with assignment −1, which have no row.
    return torch.cat([zero, zero.new_ones(1)])[layer.assignment]
