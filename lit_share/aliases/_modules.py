"""Replacing submodules."""

from __future__ import annotations

import sys

from torch import nn

from lit_share.ties import TieError, parameter_refs, unwrapped


def has_hooks(layer: nn.Module) -> bool:
    """Whether a layer has hooks, as from torch.nn.utils.prune, which a replacement would lack."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks)


def parents_of(root: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parents of a module, each with the module's name in it.

    Raises:
        TieError: If the module cannot be replaced, as it is the root or a parent is compiled.
    """
    # `_modules` rather than `named_children`, which yields a module with two names only once.
    parents: list[tuple[nn.Module, str]] = []
    for parent in unwrapped(root).modules():
        parents += [(parent, name) for name, child in parent._modules.items() if child is module]
    if not parents:
        raise TieError(
            f"{type(module).__name__} is the module itself: put it into a torch.nn.Sequential, "
            "to be replaced"
        )
    # What compiles modules takes seconds to import; without it, none is compiled.
    compiler = sys.modules.get("torch._dynamo")
    for parent, _ in parents:
        if compiler is not None and isinstance(parent, compiler.OptimizedModule):
            raise TieError(
                f"{parent} is compiled by itself, and would keep its old layer: compile later"
            )
    return parents


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a submodule in all of its parents; see `parents_of` for the errors."""
    for parent, name in parents_of(root, old):
        parent._modules[name] = new


def shared_with(module: nn.Module, layer: nn.Module) -> list[str]:
    """Return the names of other modules' parameters that are shared with a layer's."""
    own = {id(parameter) for parameter in layer.parameters(recurse=False)}
    names = []
    for ref in parameter_refs(module):
        # A transposed parameter of the layer itself is stored in another module.
        stored_elsewhere = ref.owner is layer and ref.stored is None
        if stored_elsewhere or (ref.owner is not layer and id(ref.parameter) in own):
            names.append(ref.name)
    return names
