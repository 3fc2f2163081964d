"""Names of parameters and modules, without the components that wrappers insert."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lit_share.text import described

# torch.compile, activation checkpointing and FSDP1 insert these into the names of parameters.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# These classes hold the user's module under the given name. They are compared by name, so that
# Lightning is not imported.
_WRAPPER_CLASSES = {
    "_FabricModule": "_original_module",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
_SHOWN = 4


def unwrapped_name(name: str) -> str:
    """Return the name of a parameter or module without the components of wrappers."""
    # Only whole components are compared: a user's own `my_orig_mod` is no wrapper.
    return ".".join(component for component in name.split(".") if component not in _WRAPPERS)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the user's module inside the wrappers of Fabric, compilation and data parallelism.

    Raises:
        TypeError: If ``module`` is not a `torch.nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {_not_a_module(module)}")
    kind = type(module).__name__
    for wrapper, attribute in _WRAPPER_CLASSES.items():
        inner = module._modules.get(attribute)
        # A user's class may have the name of a wrapper, but not its submodule.
        if kind == wrapper and inner is not None:
            return unwrapped(inner)
    return module


def _not_a_module(given: object) -> str:
    if isinstance(given, type):
        return f"{described(given)}: write {given.__name__}(...)"
    return (
        f"a {type(given).__name__}: put several models into one, as in "
        "torch.nn.ModuleDict({'a': a, 'b': b})"
    )


def shortened(names: Sequence[str], separator: str) -> str:
    """Join names; if there are many, keep only the first few and the last."""
    if len(names) <= _SHOWN:
        return separator.join(names)
    omitted = f"… {len(names) - _SHOWN} more …"
    return separator.join([*names[: _SHOWN - 1], omitted, names[-1]])


def and_more(omitted: int, separator: str = " ") -> str:
    """Return the end of a list from which entries are omitted; empty if none are."""
    if omitted <= 0:
        return ""
    return f"{separator}and {omitted} more"
