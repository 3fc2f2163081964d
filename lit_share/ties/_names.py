"""Names of parameters and modules without what wrappers put into them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

# What torch.compile, activation checkpointing and FSDP1 put into parameter names.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Modules that hold the user's module under a name of their own.
_WRAPPER_CLASSES = {
    "_FabricModule": "_original_module",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
_SHOWN = 4


def unwrapped_name(name: str) -> str:
    """Return the name of a parameter or module without what wrappers put into it."""
    # Only whole components: a user's own `my_orig_mod` is no wrapper.
    return ".".join(component for component in name.split(".") if component not in _WRAPPERS)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the user's module inside the wrappers of Fabric, compilation and data parallelism.

    Raises:
        TypeError: If ``module`` is not a `torch.nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got a {type(module).__name__}: put several models "
            "into one, as in torch.nn.ModuleDict({'a': a, 'b': b})"
        )
    kind = type(module).__name__
    for wrapper, attribute in _WRAPPER_CLASSES.items():
        inner = module._modules.get(attribute)
        if kind == wrapper and inner is not None:
            return unwrapped(inner)
    return module


def shortened(names: Sequence[str], separator: str) -> str:
    """Join names; of many, only the first few and the last are listed."""
    if len(names) <= _SHOWN:
        return separator.join(names)
    omitted = f"… {len(names) - _SHOWN} more …"
    return separator.join([*names[: _SHOWN - 1], omitted, names[-1]])
