"""Output units that no layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lit_share.codebooks._layers import CODEBOOKS

LAYERS = (nn.Linear, nn.Conv2d, *CODEBOOKS)
# What does the same to each number, and what does it to each channel of an image.
_ELEMENTWISE = {
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Identity, nn.Dropout,
    torch.relu, torch.tanh, torch.sigmoid, nn.functional.relu, nn.functional.leaky_relu, nn.functional.elu,
    nn.functional.gelu, nn.functional.silu, nn.functional.tanh, nn.functional.sigmoid, nn.functional.dropout,
    "relu", "tanh", "sigmoid",
}  # fmt: skip
_BY_CHANNEL = {
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout2d, nn.functional.max_pool2d,
    nn.functional.avg_pool2d, nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_max_pool2d,
}  # fmt: skip
_FLATTEN = {torch.flatten, "flatten"}

# The names of a layer, of the normalisations after it, and of the layer that alone reads its outputs.
Chain = tuple[str, list[str], str]


def chains(module: nn.Module, graphs: Sequence[fx.Graph]) -> list[Chain]:
    """Layers whose outputs go to one other layer, through functions that treat each channel alone; later ones first."""
    modules = dict(module.named_modules(remove_duplicate=False))
    elsewhere = layers_read_elsewhere(module, graphs)
    found: list[list[Chain]] = []
    for graph in graphs:
        calls = [modules[node.target] for node in graph.nodes if node.op == "call_module"]
        once = {
            id(m) for m in calls if sum(m is other for other in calls) == 1 and m not in elsewhere
        }
        candidates = [
            _chain(node, modules, once) for node in graph.nodes if node.op == "call_module"
        ]
        found.append([chain for chain in reversed(candidates) if chain is not None])
    # A module may do something else in training than in evaluation.
    return (
        [chain for chain in found[0] if all(chain in others for others in found)] if found else []
    )


def layers_read_elsewhere(module: nn.Module, graphs: Sequence[fx.Graph]) -> set[nn.Module]:
    """The modules of which a parameter is also read by others, past their own ``forward``."""
    targets = {
        str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"
    }
    return {module.get_submodule(target.rpartition(".")[0]) for target in targets}


def trace(module: nn.Module) -> list[fx.Graph]:
    """What the module does in training and in evaluation; nothing if that cannot be traced."""
    modes = {part: part.training for part in module.modules()}
    graphs = []
    try:
        for mode in (True, False):
            module.train(mode)
            graphs.append(_Tracer().trace(module))
    except Exception:  # a `forward` can do much that cannot be traced
        return []
    finally:
        for part, mode in modes.items():
            part.training = mode
    return graphs


def _chain(start: fx.Node, modules: dict[str, nn.Module], once: set[int]) -> Chain | None:
    producer = modules[str(start.target)]
    norms: list[str] = []
    if type(producer) not in LAYERS or id(producer) not in once:
        return None
    of_images, is_flat = isinstance(producer, nn.Conv2d), False
    for node in _only_users(start):
        step = modules[str(node.target)] if node.op == "call_module" else None
        what: Any = node.target if step is None else type(step)
        if type(step) in LAYERS:
            fits = isinstance(step, nn.Conv2d) == (of_images and not is_flat)
            return (
                (str(start.target), norms, str(node.target)) if fits and id(step) in once else None
            )
        if (
            type(step) is (nn.BatchNorm2d if of_images and not is_flat else nn.BatchNorm1d)
            and id(step) in once
        ):
            norms.append(str(node.target))
        elif of_images and not is_flat and _flattens_channels(node, step, what):
            is_flat = True
        elif not (what in _ELEMENTWISE or (of_images and not is_flat and what in _BY_CHANNEL)):
            return None
    return None


def _only_users(node: fx.Node) -> Iterator[fx.Node]:
    while len(node.users) == 1:
        (node,) = node.users
        yield node


def _flattens_channels(node: fx.Node, step: nn.Module | None, what: Any) -> bool:
    """Whether all of each image becomes one row, channel by channel."""
    if isinstance(step, nn.Flatten):
        return (step.start_dim, step.end_dim) == (1, -1)
    return what in _FLATTEN and tuple(node.args[1:]) == (1,) and not node.kwargs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def remove_unread(producer: Any, norms: list[Any], consumer: Any) -> None:
    """Remove the output units of a layer that the next one does not read, in place."""
    unread = unread_inputs(consumer)
    outputs = producer.weight.shape[0]
    if len(unread) % outputs or any(norm.num_features != outputs for norm in norms):
        return
    at_a_time = len(unread) // outputs  # positions of an image that became one row
    keep = ~unread.view(outputs, at_a_time).all(dim=1)
    keep[0] |= not keep.any()  # layers without outputs are no layers
    if keep.all():
        return
    for part in (producer, *norms):
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.ndim and name != "assignment":
                    kept = tensor.detach()[keep]
                    held[name] = (
                        nn.Parameter(kept, tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else kept
                    )
    for part, names in (
        (producer, ("out_features", "out_channels")),
        *((norm, ("num_features",)) for norm in norms),
    ):
        for name in names:
            if hasattr(part, name):
                setattr(part, name, int(keep.sum()))
    kept_inputs = keep.repeat_interleave(at_a_time)
    if isinstance(consumer, CODEBOOKS):
        consumer.assignment = consumer.assignment[kept_inputs]
    else:
        consumer.weight = nn.Parameter(
            consumer.weight.detach()[:, kept_inputs], consumer.weight.requires_grad
        )
        setattr(
            consumer,
            "in_channels" if isinstance(consumer, nn.Conv2d) else "in_features",
            int(kept_inputs.sum()),
        )


def unread_inputs(layer: Any) -> Tensor:
    """Which inputs do not matter, as all of their weights are zero."""
    zero: Tensor = ~layer.weight.detach().transpose(0, 1).flatten(1).any(dim=1)
    if not isinstance(layer, CODEBOOKS):
        return zero
    return torch.cat([zero, zero.new_ones(1)])[
        layer.assignment
    ]  # the last one for those that have no row
