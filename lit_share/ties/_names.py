"""Names of parameters and modules, without the components that wrappers insert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn, strided

from lit_share.text import described
from lit_share.ties._error import TieError

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

T = TypeVar("T", bound=Tensor)


def unwrapped_name(name: str) -> str:
    """Return the name of a parameter or module without the components of wrappers."""
    # Only whole components are compared: a user's own `my_orig_mod` is no wrapper.
    return ".".join(component for component in name.split(".") if component not in _WRAPPERS)


def by_unwrapped_name(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return tensors by their names without the components of wrappers.

    Args:
        tensors: Tensors by their names, such as a state dict.

    Raises:
        TieError: Naming both, if the names of two tensors become equal.
    """
    check_unwrapped_names(tensors.items())
    return {unwrapped_name(name): tensor for name, tensor in tensors.items()}


def check_unwrapped_names(named: Iterable[tuple[str, object]]) -> None:
    """Raise `TieError` if names of different tensors are equal without wrappers' components."""
    named = list(named)
    # Most modules have no wrappers, and all of their names are different.
    if not any(wrapper in name for name, _ in named for wrapper in _WRAPPERS):
        return
    known: dict[str, tuple[str, object]] = {}
    for name, tensor in named:
        *_, own = name.split(".")
        if own in _WRAPPERS:
            raise TieError(f"{name!r} is called what wrappers call a module: rename it")
        short = unwrapped_name(name)
        other, first = known.setdefault(short, (name, tensor))
        if other != name and not _are_one(first, tensor):
            components = {*name.split("."), *other.split(".")}
            inserted = next(wrapper for wrapper in _WRAPPERS if wrapper in components)
            raise TieError(
                f"{other!r} and {name!r} have one name, {short!r}, without {inserted!r}, which "
                "wrappers such as torch.compile insert: rename one of the modules"
            )


def _are_one(first: object, other: object) -> bool:
    if not isinstance(first, Tensor) or not isinstance(other, Tensor):
        return False
    if first is other:
        return True
    # A state dict has a new tensor for each name of a parameter.
    if any(type(t) is not Tensor or t.layout != strided or t.is_meta for t in (first, other)):
        return False
    memory = [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in (first, other)]
    return memory[0] == memory[1] and first.numel() > 0


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
