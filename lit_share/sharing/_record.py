"""What is shared in a module, by name: remembered, verified, and made one again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.sharing._derived import Derived
from lit_share.sharing._error import TieError
from lit_share.sharing._tie import BufferSlot, Slot, buffer_slots, slots, unwrapped, unwrapped_name


def verify_shared(module: nn.Module) -> None:
    """Check that everything that `share` made one still is, and make it one again where its values are equal.

    Moves, `load_state_dict` and copies of the module that was shared are looked after without this. To be called after
    its parts were moved, replaced or initialised by other means.

    Args:
        module: The module that was shared, or what Fabric, `torch.compile` or DDP made of it.

    Raises:
        TieError: If places that were one have different values now, or are gone; the message names them.

    Example:
        >>> from lit_share.sharing import Ties, share
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["b"].bias = nn.Parameter(pair["a"].bias.detach().clone())
        >>> verify_shared(pair)
        >>> pair["a"].bias is pair["b"].bias
        True
    """
    record = _record_of(unwrapped(module))
    if record is not None:
        record.verify(unwrapped(module))


def remember_shared(module: nn.Module, buffers: Sequence[Sequence[BufferSlot]] = ()) -> None:
    """Remember what is one in the module now, and keep it so when the module is moved, copied or loaded.

    Args:
        module: The module.
        buffers: The places of buffers that were made one. Others that are one are the module's own affair, as it may
            replace them at any time.
    """
    module = unwrapped(module)
    record = _record_of(module)
    if record is None:
        record = Record()
        module.register_load_state_dict_pre_hook(record.before_load)
        module.register_load_state_dict_post_hook(record.after_load)
        module.__dict__["_apply"] = _ApplyToOne(module, record)
    record.take(module, [[place.name for place in row] for row in buffers])


def recorded_buffers(module: nn.Module) -> list[list[str]]:
    """The names of the places of each buffer that was shared."""
    record = _record_of(unwrapped(module))
    return [] if record is None else record.buffers


class Record:
    """The names of the places that hold one parameter or buffer, and of those that are made of others."""

    def __init__(self) -> None:
        self.parameters: list[list[str]] = []
        self.buffers: list[list[str]] = []
        self.derived: dict[str, str] = {}

    def take(self, module: nn.Module, buffers: Sequence[list[str]]) -> None:
        """Remember what is one now, and these buffers."""
        self.parameters = places_of_one(slots(module))
        known = {name for group in (*self.buffers, *buffers) for name in group}
        self.buffers = places_of_one(place for place in buffer_slots(module) if place.name in known)
        names = first_names(slots(module))
        self.derived = {
            slot.name: names[id(slot.derived.owner), slot.derived.attribute]
            for slot in slots(module)
            if slot.derived
        }

    def verify(self, module: nn.Module) -> None:
        """Make one again what has equal values, and raise for what has not."""
        self._for_each(module, _join_equal)
        by_name, names = {slot.name: slot for slot in slots(module)}, first_names(slots(module))
        for name, source in self.derived.items():
            how = by_name[name].derived if name in by_name else None
            if (
                how is None
                or names.get((id(how.owner), how.attribute)) != source
                or by_name[name].is_replaced
            ):
                raise TieError(
                    f"{name!r} was made of {source!r}, and one of them has been replaced: share them again with "
                    "lit_share.share"
                )

    def make_one_again(self, module: nn.Module) -> None:
        """Put the parameter or buffer of the first name in all places, whatever these hold."""
        self._for_each(module, lambda first, other: other.put(first.stored))

    def before_load(
        self, module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any
    ) -> None:
        """Raise if the state dict has different values for what is one: the last would win without a word."""
        loaded = {
            unwrapped_name(key.removeprefix(prefix)): (key, value)
            for key, value in state_dict.items()
        }
        for group in (*self.parameters, *self.buffers):
            entries = [loaded[name] for name in group if name in loaded]
            for (key, value), (other, different) in pairwise(entries):
                if not agree(value, different):
                    raise TieError(_differ(key, other))
        by_name = {slot.name: slot for slot in slots(module)}
        for name, source in self.derived.items():
            how = by_name[name].derived
            if how is not None and name in loaded and source in loaded:
                (key, entry), (other, made_of) = loaded[name], loaded[source]
                if not _fits(how, made_of, entry):
                    raise TieError(_differ(key, other))

    def after_load(self, module: nn.Module, _: Any) -> None:
        """Make them one again where ``load_state_dict(assign=True)`` gave each name a parameter of its own."""
        self.make_one_again(module)

    def _for_each(self, module: nn.Module, join: Callable[[Any, Any], None]) -> None:
        """Call ``join`` with the first and every other place of a group that do not hold the same."""
        for groups, places in (
            (self.parameters, slots(module)),
            (self.buffers, buffer_slots(module)),
        ):
            by_name: dict[str, Any] = {place.name: place for place in places}
            for group in groups:
                gone = [name for name in group if name not in by_name]
                if gone:
                    raise TieError(
                        f"{' and '.join(map(repr, group))} were one, but {gone[0]!r} is gone: share what there is now, "
                        "with lit_share.unshare(module) and lit_share.share"
                    )
                first, *others = (by_name[name] for name in group)
                for other in others:
                    if other.stored is not first.stored:
                        join(first, other)


class _ApplyToOne:
    """A module's ``_apply``, which moves and converts it, and may make several parameters of one."""

    def __init__(self, module: nn.Module, record: Record) -> None:
        self.module, self.record = module, record

    def __call__(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.record.verify(self.module)
        applied = type(self.module)._apply(self.module, fn, recurse)
        # What was one before got the same function: so it is one, also where it has no values yet (`to_empty`).
        self.record.make_one_again(self.module)
        return applied


def _record_of(module: nn.Module) -> Record | None:
    apply = module.__dict__.get("_apply")
    return apply.record if isinstance(apply, _ApplyToOne) else None


def places_of_one(places: Iterable[Slot] | Iterable[BufferSlot]) -> list[list[str]]:
    """The names of the places that hold the same."""
    names: dict[int, list[str]] = defaultdict(list)
    for place in places:
        if place.stored is not None:
            names[id(place.stored)].append(place.name)
    return [group for group in names.values() if len(group) > 1]


def first_names(places: Iterable[Slot]) -> dict[tuple[int, str], str]:
    """The first name of each place."""
    names: dict[tuple[int, str], str] = {}
    for place in places:
        names.setdefault((id(place.owner), place.attribute), place.name)
    return names


def _join_equal(first: Slot | BufferSlot, other: Slot | BufferSlot) -> None:
    one, two = first.stored, other.stored
    if one is None or two is None or not agree(one, two):
        raise TieError(
            f"{first.name!r} and {other.name!r} were one, but have different values now: make them equal, and call "
            "lit_share.verify_shared, or share them again with lit_share.share"
        )
    other.put(one)  # type: ignore[arg-type]


def agree(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors have the same values; those that have none yet do."""
    if isinstance(one, DTensor) and isinstance(two, DTensor):
        # Each process has the same piece of both.
        alike = one.device_mesh == two.device_mesh and one.placements == two.placements
        return alike and agree(one.to_local(), two.to_local())
    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    if one.is_meta or one is two:
        return True
    if isinstance(one, DTensor) or isinstance(two, DTensor):
        return False  # one in pieces, one whole
    return torch.allclose(one, two, 0.0, 0.0, equal_nan=True)


def _fits(how: Derived, source: Tensor, tensor: Tensor) -> bool:
    turned = tensor.T if how.transposed else tensor
    if turned.shape != source.shape:
        return False
    return agree(how.make(source, None if how.apart is None else how.own_part(tensor)), tensor)


def _differ(key: str, other: str) -> str:
    return (
        f"{key!r} and {other!r} are one here, but differ in the state dict: load it before they are shared (as with "
        "load_from_checkpoint before trainer.fit, and without ckpt_path), or make them equal in it"
    )
