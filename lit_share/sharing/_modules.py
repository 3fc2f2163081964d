"""Putting modules in the places of others."""

from __future__ import annotations

from torch import nn
from torch._dynamo import OptimizedModule

from lit_share.sharing._error import TieError
from lit_share.sharing._tie import slots, unwrapped


def has_hooks(layer: nn.Module) -> bool:
    """Whether a layer has hooks, as torch.nn.utils.prune gives it, which another one in its place would not have."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks)


def places_of(root: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The parents of a module and its names there; `TieError` if it has none, or cannot be replaced there."""
    parents = unwrapped(root).modules()
    places = [
        (parent, name)
        for parent in parents
        for name, child in parent._modules.items()
        if child is module
    ]
    if not places:
        kind = type(module).__name__
        raise TieError(
            f"{kind} is the module itself: put it into a torch.nn.Sequential, to be replaced"
        )
    compiled = [parent for parent, _ in places if isinstance(parent, OptimizedModule)]
    if compiled:
        raise TieError(
            f"{compiled[0]} is compiled by itself, and would go on with the layer that it has: compile later"
        )
    return places


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in all places of another one."""
    for parent, name in places_of(root, old):
        parent._modules[name] = new


def shared_with(module: nn.Module, layer: nn.Module) -> list[str]:
    """The names of places elsewhere that hold a parameter of a layer, or are made of one."""
    own = {id(parameter) for parameter in layer._parameters.values() if parameter is not None}
    return [
        slot.name
        for slot in slots(module)
        if (slot.owner is not layer and id(slot.stored) in own)
        or (slot.source is not None and layer in (slot.source.owner, slot.owner))
    ]
