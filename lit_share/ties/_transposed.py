"""Parameters that are the transpose of another one, computed when they are read.

To share a whole parameter, one `torch.nn.Parameter` is put under several names. A transposed matrix
has another shape, so it cannot be shared so. Two Parameters on one memory would be stepped twice, and
part when the module is moved; a parametrization gives the entries of ``state_dict`` other names. So
the attribute becomes a property of the module's class, which computes the transpose at every read:
gradients flow to the stored Parameter, which is all that an optimizer, DDP or FSDP2 sees.
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
    """The parameter that another one is the transpose of: its module, and its name there."""

    owner: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """The source's tensor, detached; it may be a transpose itself."""
        stored = self.owner._parameters[self.attribute]
        if stored is not None:
            return stored.detach()
        return transposed_in(self.owner)[self.attribute].tensor.T


def transposed_in(owner: nn.Module) -> Mapping[str, Source]:
    """Return the sources of a module's transposed parameters, by attribute."""
    sources: Mapping[str, Source] = owner.__dict__.get(_KEY, _NOTHING)
    return sources


def make_transposed(owner: nn.Module, attribute: str, source: Source) -> None:
    """Make a parameter the transpose of another one; what was stored under its name is dropped."""
    if not transposed_in(owner):
        owner.__dict__[_KEY] = {}
        owner.register_state_dict_post_hook(_save_transposes)
        owner.register_load_state_dict_pre_hook(_load_transposes)
    owner.__dict__[_KEY][attribute] = source
    owner._parameters[attribute] = None
    _fit_class(owner)


def make_stored(owner: nn.Module, attribute: str) -> None:
    """Make a transposed parameter an ordinary one, which can be assigned.

    Raises:
        TieError: If the module was parametrized or sharded meanwhile.
    """
    if not can_hold_transposed(owner):
        raise TieError(
            f"a {type(owner).__name__} was parametrized or sharded after {attribute!r} of it was "
            "shared: undo that first"
        )
    del owner.__dict__[_KEY][attribute]
    _fit_class(owner)
    if not transposed_in(owner):
        del owner.__dict__[_KEY]
        for hooks in (owner._state_dict_hooks, owner._load_state_dict_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "hook", hook) in (_save_transposes, _load_transposes):
                    del hooks[key]


def can_hold_transposed(owner: nn.Module) -> bool:
    """Whether a parameter of this module can be computed when it is read."""
    # Recurrent layers keep a list of their weights; a parametrized module has a class of its own on
    # top of ours.
    has_own_class = "_lit_share_plain" in vars(type(owner))
    return not isinstance(owner, nn.RNNBase) and has_own_class == isinstance(owner, _Made)


class _Made:
    """Base of the classes that are made for modules with transposed parameters."""

    _lit_share_plain: type[nn.Module]

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep these classes out of registries that the user's class has of its subclasses."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle cannot find such a class by its name, so the copy makes it again.
        function, arguments, *rest = tuple[Any, ...](super().__reduce_ex__(protocol))
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            attributes = frozenset(transposed_in(self))  # type: ignore[arg-type]
            return _new, (self._lit_share_plain, attributes), *rest
        return (function, arguments, *rest)


def _fit_class(owner: nn.Module) -> None:
    """Give a module the class that computes its transposed parameters."""
    kind: Any = type(owner)
    plain = kind._lit_share_plain if isinstance(owner, _Made) else kind
    attributes = frozenset(transposed_in(owner))
    owner.__class__ = _class_with(plain, attributes) if attributes else plain


@cache
def _class_with(plain: Any, attributes: frozenset[str]) -> Any:
    """Make a subclass in which these attributes are computed when they are read."""
    namespace: dict[str, Any] = {name: property(_getter(name)) for name in attributes}
    namespace |= {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_Made, plain), {**namespace, "_lit_share_plain": plain})


def _getter(attribute: str) -> Callable[[Any], Any]:
    def get(owner: nn.Module) -> Any:
        source = transposed_in(owner).get(attribute)
        if source is None:  # another object of the class, as a module's own `clone` may make it
            return nn.Module.__getattr__(owner, attribute)
        override = owner._parameters[attribute]  # what `torch.func.functional_call` puts there
        # Read by `getattr`, as the source's module may have been wrapped or sharded since.
        return getattr(source.owner, source.attribute).T if override is None else override

    return get


def _new(plain: Any, attributes: frozenset[str]) -> Any:
    kind = _class_with(plain, attributes)
    return kind.__new__(kind)


@torch.no_grad()
def _save_transposes(owner: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """Give ``state_dict`` the entries, and their order, that the module has when nothing is shared."""
    for attribute, source in transposed_in(owner).items():
        state_dict[prefix + attribute] = source.tensor.T
    first = [prefix + name for name in owner._parameters]
    rest = [key for key in state_dict if key.startswith(prefix) and key not in first]
    for key in [*first, *rest]:
        if key in state_dict:
            state_dict[key] = state_dict.pop(key)


@torch.no_grad()
def _load_transposes(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Load the entry of a transposed parameter into its source."""
    *_, missing, _, errors = rest
    for attribute, source in transposed_in(owner).items():
        key = prefix + attribute
        if key not in state_dict:
            missing.append(key)
            continue
        entry, target = state_dict.pop(key), source.tensor.T
        if entry.shape != target.shape:
            shapes = f"{tuple(entry.shape)} in the state dict, {tuple(target.shape)} here"
            errors.append(f"size mismatch for {key}: {shapes}")
        else:
            # As with one Parameter under two names, loading one of them loads the other.
            target.copy_(entry)
