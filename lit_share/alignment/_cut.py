"""Cut units out of a module: its tensors, and the sizes that its layers state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lit_share.alignment._blocks import Block
from lit_share.alignment._graph import AxisGraph


def cut_units(
    module: nn.Module, graph: AxisGraph, keep: Mapping[int, Tensor]
) -> Callable[[], None]:
    """Cut units out of a module, in place, wherever their axes occur.

    A Parameter becomes a new one, under all of its names; layers of torch state their new sizes.

    Args:
        module: The module of which this is the graph.
        graph: Its axes.
        keep: For numbers of axes, a mask of the units that stay.

    Returns:
        What puts the old tensors and sizes back.
    """
    changes: list[tuple[dict[str, Any], str, Any]] = []

    def undo() -> None:
        while changes:
            entries, key, old = changes.pop()
            entries[key] = old

    def put(entries: dict[str, Any], key: str, new: Any) -> None:
        changes.append((entries, key, entries[key]))
        entries[key] = new

    layers: dict[str, Any] = dict(module.named_modules())
    # A subclass may give a size another meaning.
    stated = {
        (layer, key): size
        for layer in layers.values()
        for key, size in _sizes(layer).items()
        if layer.__dict__.get(key) == size
    }
    # A Parameter under several names becomes one new Parameter.
    made: dict[int, Tensor] = {}
    # A layer under several names has its tensors under all of them.
    done: set[tuple[int, str]] = set()
    try:
        for name, dimensions in graph.dimensions.items():
            kept = [_kept(blocks, keep) for blocks in dimensions]
            if not all(mask.all() for mask in kept):
                path, _, attribute = name.rpartition(".")
                owner = module.get_submodule(path)
                entries: Any = owner._parameters
                if attribute in owner._buffers:
                    entries = owner._buffers
                if (id(owner), attribute) in done:
                    continue
                done.add((id(owner), attribute))
                old = entries[attribute]
                put(entries, attribute, made.setdefault(id(old), _cut(old, kept)))
        for name, layer in layers.items():
            weight = graph.dimensions.get(f"{name}.weight".lstrip("."))
            # Of a depthwise weight (outputs, 1, …), only the groups say how many inputs there are.
            if isinstance(layer, _ConvNd) and layer.groups > 1 and weight is not None:
                groups = _kept(weight[0], keep).view(layer.groups, -1).any(1)
                put(layer.__dict__, "groups", int(groups.sum()))
        for (layer, key), size in stated.items():
            if (new := _sizes(layer)[key]) != size:
                put(layer.__dict__, key, new)
    except BaseException:
        undo()
        raise
    return undo


def _kept(blocks: tuple[Block[int], ...], keep: Mapping[int, Tensor]) -> Tensor:
    """Return a mask of the positions of a dimension whose units all stay."""
    size = sum(block.positions().numel() for block in blocks)
    mask = torch.ones(size, dtype=torch.bool, device="cpu")
    for block in blocks:
        for factor, axis in enumerate(block.axes):
            if axis is not None and axis in keep:
                mask[block.positions().movedim(factor, 0)[~keep[axis]].flatten()] = False
    return mask


def _cut(tensor: Tensor, kept: list[Tensor]) -> Tensor:
    cut = tensor.detach()
    for dim, mask in enumerate(kept):
        if not mask.all():
            cut = cut.index_select(dim, mask.nonzero().flatten().to(cut.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(cut, tensor.requires_grad)
    return cut


def _sizes(layer: Any) -> dict[str, Any]:
    """Return the attributes of a layer of torch that state sizes, and what they have to be."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, _NormBase) and weight is None:
        weight = layer.running_mean
    if not isinstance(weight, Tensor):
        return {}
    first, second = [*weight.shape, 0, 0][:2]
    if isinstance(layer, _NormBase):
        return {"num_features": first}
    if isinstance(layer, _ConvTransposeNd):
        return {"in_channels": first, "out_channels": second * layer.groups}
    if isinstance(layer, _ConvNd):
        return {"in_channels": second * layer.groups, "out_channels": first}
    if isinstance(layer, nn.Linear):
        return {"in_features": second, "out_features": first}
    if isinstance(layer, nn.Embedding):
        return {"num_embeddings": first, "embedding_dim": second}
    if isinstance(layer, nn.PReLU):
        return {"num_parameters": first}
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight.shape)}
    return {}
