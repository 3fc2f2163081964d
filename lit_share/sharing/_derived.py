"""Places whose tensor is made of another place's parameter: transposed, or with some units of its own.

Sharing a whole parameter needs nothing but the same `torch.nn.Parameter` in two places. A transposed matrix cannot be
that, as it has another shape, nor can a parameter of which only some units are shared. Two Parameters on one memory
would be stepped twice, and fall apart when the module is moved; a parametrization gives the entries of ``state_dict``
other names. So the place becomes a property of the module's class, which makes the tensor whenever it is read:
gradients flow to what is stored, and what is stored is all that an optimizer, DDP or FSDP2 sees.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.sharing._error import TieError

_KEY = "_lit_share_derived"


@dataclass(eq=False)
class Derived:
    """How a place's tensor is made.

    Attributes:
        owner: The module of the place that it is made of.
        attribute: The name of the parameter there.
        transposed: Whether the other's transpose is meant.
        dim: The dimension of the other's tensor along which ``apart`` counts.
        apart: The units that this place has for itself, stored under its own name; ``None`` if there are none.
    """

    owner: nn.Module
    attribute: str
    transposed: bool = False
    dim: int = 0
    apart: Tensor | None = None

    def make(self, source: Tensor, own: Tensor | None) -> Tensor:
        """The place's tensor, from the other place's and its own units."""
        if self.is_replaced(source, own):
            assert own is not None
            return own
        if self.apart is not None:
            assert own is not None
            if isinstance(source, DTensor):
                raise TieError(
                    f"{self.attribute!r} of {type(self.owner).__name__} shares only some of its units with another "
                    "parameter, which fully_shard cannot divide: give it units of its own with lit_share.unshare, or "
                    "use DDP"
                )
            source = source.index_copy(self.dim, self._apart_on(source.device), own)
        return source.T if self.transposed else source

    def is_replaced(self, source: Tensor, own: Tensor | None) -> bool:
        """Whether something else was put in the place than its own units, as `torch.func.functional_call` does."""
        if own is None or self.apart is None:
            return own is not None
        return own.shape != (
            *source.shape[: self.dim],
            len(self.apart),
            *source.shape[self.dim + 1 :],
        )

    def own_part(self, tensor: Tensor) -> Tensor:
        """The units of a tensor of the place's shape that belong to the place alone."""
        assert self.apart is not None
        return self._turned(tensor).index_select(self.dim, self._apart_on(tensor.device))

    def shared_part(self, tensor: Tensor) -> Tensor:
        """A tensor of the place's shape as the other place has it, with zeros for the units of this one alone."""
        turned = self._turned(tensor)
        return (
            turned
            if self.apart is None
            else turned.index_fill(self.dim, self._apart_on(tensor.device), 0)
        )

    def _turned(self, tensor: Tensor) -> Tensor:
        return tensor.T if self.transposed else tensor

    def _apart_on(self, device: torch.device) -> Tensor:
        assert self.apart is not None
        if self.apart.device == device:
            return self.apart
        moved = self.apart.to(device)
        if device.type != "meta":  # which would forget it
            self.apart = moved
        return moved


def derived_in(owner: nn.Module) -> Mapping[str, Derived]:
    """The derived places of a module, by attribute."""
    places: Mapping[str, Derived] = owner.__dict__.get(_KEY, {})
    return places


def derived(owner: nn.Module, attribute: str) -> Derived | None:
    """How the place is made, if it is a derived one."""
    places: Mapping[str, Derived] | None = owner.__dict__.get(_KEY)
    return (
        None if places is None else places.get(attribute)
    )  # asked several times for every member in every step


def derive(owner: nn.Module, attribute: str, how: Derived, own: nn.Parameter | None = None) -> None:
    """Make a place a derived one, which stores only its own units, if any."""
    if not derived_in(owner):
        owner.__dict__[_KEY] = {}
        owner.register_state_dict_post_hook(_write_in_full)
        owner.register_load_state_dict_pre_hook(_load_in_full)
    owner.__dict__[_KEY][attribute] = how
    owner._parameters[attribute] = own
    _fit_class(owner)


def underive(owner: nn.Module, attribute: str) -> None:
    """Make a place an ordinary one, to which a parameter can be assigned."""
    if not can_be_derived(owner):
        raise TieError(
            f"a {type(owner).__name__} was parametrized or sharded after {attribute!r} of it was shared: undo that "
            "first"
        )
    del owner.__dict__[_KEY][attribute]
    _fit_class(owner)
    if not derived_in(owner):
        del owner.__dict__[_KEY]
        for hooks in (owner._state_dict_hooks, owner._load_state_dict_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "hook", hook) in (_write_in_full, _load_in_full):
                    del hooks[key]


def full(owner: nn.Module, attribute: str, of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """The tensor of a place, with ``of`` applied to the parameters that it is made of."""
    stored = owner._parameters[attribute]
    own = None if stored is None else of(stored)
    how = derived(owner, attribute)
    if how is None:
        assert own is not None
        return own
    return how.make(full(how.owner, how.attribute, of), own)


def can_be_derived(owner: nn.Module) -> bool:
    """Whether a place of this module can be made when it is read."""
    # Recurrent layers keep a list of their weights; parametrized ones have a class of their own on top of ours.
    return not isinstance(owner, nn.RNNBase) and (
        "_lit_share_plain" in vars(type(owner))
    ) == isinstance(owner, _Made)


class _Made:
    """What the classes have in common that are made for modules with derived places."""

    _lit_share_plain: type[nn.Module]

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep these classes out of registries that the user's class has of its subclasses."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A class that is made on the fly cannot be found by its name: the copy makes it again.
        function, arguments, *rest = tuple[Any, ...](super().__reduce_ex__(protocol))
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _new, (self._lit_share_plain, frozenset(derived_in(self))), *rest  # type: ignore[arg-type]
        return (function, arguments, *rest)


def _fit_class(owner: nn.Module) -> None:
    """Give a module the class that makes its derived places."""
    kind: Any = type(owner)
    plain = kind._lit_share_plain if isinstance(owner, _Made) else kind
    attributes = frozenset(derived_in(owner))
    owner.__class__ = _class_with(plain, attributes) if attributes else plain


@cache
def _class_with(plain: Any, attributes: frozenset[str]) -> Any:
    """A subclass in which these attributes are made when they are read."""
    namespace: dict[str, Any] = {name: property(_getter(name)) for name in attributes}
    keep = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (_Made, plain), {**keep, **namespace, "_lit_share_plain": plain})


def _getter(attribute: str) -> Callable[[Any], Any]:
    def get(owner: nn.Module) -> Any:
        how = derived(owner, attribute)
        if how is None:  # another object of the class, as a module's own `clone` may make it
            return nn.Module.__getattr__(owner, attribute)
        # Read as the module itself would, which may have been wrapped or sharded since.
        return how.make(getattr(how.owner, how.attribute), owner._parameters[attribute])

    return get


def _new(plain: Any, attributes: frozenset[str]) -> Any:
    kind = _class_with(plain, attributes)
    return kind.__new__(kind)


@torch.no_grad()
def _write_in_full(owner: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """Give ``state_dict`` the entries, and the order, that the module would have if nothing were shared."""
    for attribute in derived_in(owner):
        state_dict[prefix + attribute] = full(owner, attribute, nn.Parameter.detach)
    first = [prefix + name for name in owner._parameters]
    for key in [
        *first,
        *(key for key in list(state_dict) if key.startswith(prefix) and key not in first),
    ]:
        if key in state_dict:
            state_dict[key] = state_dict.pop(key)


@torch.no_grad()
def _load_in_full(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Load the entry of a derived place into the parameters that it is made of."""
    *_, missing, _, errors = rest
    for attribute, how in derived_in(owner).items():
        key = prefix + attribute
        if key not in state_dict:
            missing.append(key)
            continue
        entry = state_dict.pop(key)
        shape = full(owner, attribute, nn.Parameter.detach).shape
        if entry.shape != shape:
            errors.append(
                f"size mismatch for {key}: {tuple(entry.shape)} in the state dict, {tuple(shape)} here"
            )
            continue
        if how.apart is not None:
            state_dict[key] = how.own_part(entry)
        # As with one Parameter in two places, loading one of them loads the other.
        write_shared(how, entry)


def write_shared(how: Derived, tensor: Tensor) -> None:
    """Write what a tensor has of a derived place's shared units to the place that stores them."""
    source = full(how.owner, how.attribute, nn.Parameter.detach)
    value = how._turned(tensor)
    if how.apart is not None:
        apart = how._apart_on(source.device)
        value = value.to(source).index_copy(how.dim, apart, source.index_select(how.dim, apart))
    further = derived(how.owner, how.attribute)
    if further is None:
        source.copy_(value)
    else:
        own = how.owner._parameters[how.attribute]
        if own is not None:
            own.copy_(further.own_part(value))
        write_shared(further, value)
