"""Parameters that are computed as the transpose of another parameter when they are read.

A Parameter and its transpose have different shapes, so they cannot be one object under two names.
Two Parameters with one memory would be stepped twice, and separate when the module is moved; a
parametrization renames the entries of ``state_dict``. So the attribute becomes a property of the
module's class, which computes the transpose at every read: gradients flow to the stored Parameter,
and optimizers, DDP and FSDP2 see no other.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_share.ties._error import TieError

_KEY = "_lit_share_transposed"
_NOTHING: Mapping[str, Source] = {}


class Source(NamedTuple):
    """The module and the name of the parameter from which a transpose is computed."""

    owner: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """The source's tensor, detached; it may be a computed transpose itself."""
        stored = self.owner._parameters[self.attribute]
        if stored is not None:
            return stored.detach()
        return transposed_in(self.owner)[self.attribute].tensor.T


def transposed_in(owner: nn.Module) -> Mapping[str, Source]:
    """Return the sources of a module's transposed parameters, by attribute."""
    sources: Mapping[str, Source] = owner.__dict__.get(_KEY, _NOTHING)
    return sources


def make_transposed(owner: nn.Module, attribute: str, source: Source) -> None:
    """Replace a parameter by the transpose of its source; drop the Parameter that it stores."""
    if not transposed_in(owner):
        owner.__dict__[_KEY] = {}
        owner.register_state_dict_post_hook(_save_transposes)
        owner.register_load_state_dict_pre_hook(_load_transposes)
    owner.__dict__[_KEY][attribute] = source
    # The entry stays, so that parameters keep their order.
    owner._parameters[attribute] = None
    _fit_class(owner)


def make_stored(owner: nn.Module, attribute: str) -> None:
    """Replace a computed transpose by an empty parameter, which can be assigned.

    Raises:
        TieError: If the module was parametrized or sharded meanwhile.
    """
    if not can_hold_transposed(owner):
        raise TieError(
            f"a {type(owner).__name__} was parametrized or sharded after its {attribute!r} was "
            "shared: undo that first"
        )
    del owner.__dict__[_KEY][attribute]
    _fit_class(owner)
    if not transposed_in(owner):
        # A copy of the module has the hooks, but would have no handles to remove them by.
        del owner.__dict__[_KEY]
        for hooks in (owner._state_dict_hooks, owner._load_state_dict_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "hook", hook) in (_save_transposes, _load_transposes):
                    del hooks[key]


def can_hold_transposed(owner: nn.Module) -> bool:
    """Whether a parameter of this module can be computed when it is read."""
    # Recurrent layers read their weights from a flat list, past the property. `parametrize` and
    # `fully_shard` subclass the class of the module, so ours is not the last one any more.
    has_own_class = "_lit_share_plain" in vars(type(owner))
    return not isinstance(owner, nn.RNNBase) and has_own_class == isinstance(owner, _Made)


class _Made:
    """Base of the classes that `_class_with` makes."""

    _lit_share_plain: type[nn.Module]

    def __init_subclass__(cls, **_: Any) -> None:
        """Skip the method of the user's class, which may register its subclasses."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle cannot import this class by its name, so `_new` makes it when it is restored.
        function, arguments, *rest = tuple[Any, ...](super().__reduce_ex__(protocol))
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            attributes = frozenset(transposed_in(self))  # type: ignore[arg-type]
            return _new, (self._lit_share_plain, attributes), *rest
        return (function, arguments, *rest)


def _fit_class(owner: nn.Module) -> None:
    """Set a module's class to one with properties for its transposes, or without any to its own."""
    kind: Any = getattr(type(owner), "_lit_share_plain", type(owner))
    attributes = frozenset(transposed_in(owner))
    if attributes:
        kind = _class_with(kind, attributes)
    owner.__class__ = kind


# Modules with the same transposes have the same class, so `type(a) is type(b)` still holds.
@cache
def _class_with(plain: Any, attributes: frozenset[str]) -> Any:
    """Return a subclass of ``plain`` whose ``attributes`` return transposes of their sources."""
    namespace: dict[str, Any] = {name: property(_getter(name)) for name in attributes}
    namespace |= {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_Made, plain), {**namespace, "_lit_share_plain": plain})


def _getter(attribute: str) -> Callable[[Any], Any]:
    def get(owner: nn.Module) -> Any:
        source = transposed_in(owner).get(attribute)
        # A method of the user, such as `clone`, may make an object of the class without sources.
        if source is None:
            return nn.Module.__getattr__(owner, attribute)
        # `torch.func.functional_call` puts its argument into the empty entry.
        override = owner._parameters[attribute]
        if override is not None:
            return override
        # `getattr` works when the source's module has been wrapped or sharded since.
        return getattr(source.owner, source.attribute).T

    return get


def _new(plain: Any, attributes: frozenset[str]) -> Any:
    kind = _class_with(plain, attributes)
    return kind.__new__(kind)


@torch.no_grad()
def _save_transposes(owner: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """Add ``owner``'s transposes to ``state_dict``, and sort it as that of the untied module."""
    for attribute, source in transposed_in(owner).items():
        state_dict[prefix + attribute] = source.tensor.T
    first = [prefix + name for name in owner._parameters]
    rest = [key for key in state_dict if key.startswith(prefix) and key not in first]
    for key in [*first, *rest]:
        if key in state_dict:
            state_dict[key] = state_dict.pop(key)


@torch.no_grad()
def _load_transposes(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Pop transposes' entries and copy them to their sources; note errors in lists of ``rest``."""
    *_, missing, _, errors = rest
    for attribute, source in transposed_in(owner).items():
        key = prefix + attribute
        if key not in state_dict:
            missing.append(key)
            continue
        entry, target = state_dict.pop(key), source.tensor.T
        if entry.shape != target.shape:
            shapes = f"{tuple(entry.shape)} in the state dict, {tuple(target.shape)} in the module"
            errors.append(f"size mismatch for {key}: {shapes}")
        else:
            # This writes to the source, as loading one name of an alias writes to all its names.
            target.copy_(entry)
