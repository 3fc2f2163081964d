"""Sharing as plain data: what is one in a module, and making it so in another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.sharing._error import TieError
from lit_share.sharing._modules import replace_module
from lit_share.sharing._places import Places, make_buffer_one
from lit_share.sharing._positions import position_count
from lit_share.sharing._record import (
    agree,
    first_names,
    places_of_one,
    recorded_buffers,
    remember_shared,
)
from lit_share.sharing._shareable import check_shareable, check_units
from lit_share.sharing._tie import (
    BufferSlot,
    Member,
    Slot,
    Tie,
    buffer_slots,
    slots,
    unwrapped,
    unwrapped_name,
)
from lit_share.sharing.positions._layers import LOCAL_LAYERS, LocalLayer

_Entry = Mapping[str, Any]


def shared_places(module: nn.Module) -> list[dict[str, Any]]:
    """What is one in the module now: plain data that is enough for `rebuild_shared` to make it so again.

    Returns:
        Entries with the ``"names"`` of the places that have one parameter or buffer, ``.T`` after those that have its
        transpose; and ``"apart"``, the units that they do not share, where that is not none. For each convolution that
        was a locally connected layer an entry with the name of the ``"convolution"``.
    """
    groups = [*places_of_one(slots(module)), *recorded_buffers(module)]
    entries: list[dict[str, Any]] = [{"names": group} for group in groups]
    names = first_names(slots(module))
    for slot in slots(module):
        how = slot.derived
        if how is not None:
            units_are_columns = how.dim == 1
            source = names[id(how.owner), how.attribute] + (".T" if units_are_columns else "")
            own = slot.name + (".T" if how.transposed != units_are_columns else "")
            apart = {} if how.apart is None else {"apart": how.apart.tolist()}
            entries.append({"names": [source, own], **apart})
    parts = unwrapped(module).named_modules()
    entries += [
        {"convolution": unwrapped_name(name)} for name, part in parts if position_count(part)
    ]
    return entries


@torch.no_grad()
def rebuild_shared(module: nn.Module, entries: Iterable[_Entry]) -> None:
    """Make one again what `shared_places` found, in a module with the same values.

    Args:
        module: The module, changed in place.
        entries: What `shared_places` returned.

    Raises:
        TieError: If a place is not there or cannot be shared, or values that were one are different; nothing is
            changed then.
    """
    entries = list(entries)
    layers = [
        _local_layer(module, entry["convolution"]) for entry in entries if "convolution" in entry
    ]
    convolutions = {layer: layer.to_conv() for layer in layers if layer is not None}
    for layer, convolution in convolutions.items():
        replace_module(module, layer, convolution)
    try:
        _make_one(module, entries)
    except TieError:
        for layer, convolution in convolutions.items():
            replace_module(module, convolution, layer)
        raise


def _make_one(module: nn.Module, entries: Iterable[_Entry]) -> None:
    """Make one what the entries name, in a module that has all convolutions."""
    parameters = {slot.name: slot for slot in slots(module)}
    buffers = {slot.name: slot for slot in buffer_slots(module)}
    rows: list[list[BufferSlot]] = []
    ties: list[tuple[Tie, Tensor | None]] = []
    for entry in _sources_last(entry for entry in entries if "names" in entry):
        names: Sequence[str] = entry["names"]
        if all(name in buffers for name in names):
            rows.append([buffers[name] for name in names])
            if not all(agree(rows[-1][0].stored, place.stored) for place in rows[-1][1:]):
                raise TieError(
                    f"{' and '.join(map(repr, names))} are to be one, but have different values"
                )
            continue
        tie = Tie(names[0], tuple(_member(parameters, name) for name in names))
        apart = torch.tensor(entry["apart"], dtype=torch.long) if "apart" in entry else None
        _check_values(tie, apart)
        if not tie.is_one:
            check_shareable(module, [tie])
            check_units(tie, apart)
            ties.append((tie, apart))
    places = Places(module)
    for tie, apart in ties:
        places.share_units(tie, apart)
    for row in rows:
        make_buffer_one(row, averaged=False)
    remember_shared(module, rows)


def _sources_last(entries: Iterable[_Entry]) -> list[_Entry]:
    """The entries, those of a place that others are made of after those of the others."""
    # A place that has only some of its units any more could not be what another one is made of.
    listed, order = list(entries), TopologicalSorter[str]()
    for entry in listed:
        if "apart" in entry:
            source, *others = (name.removesuffix(".T") for name in entry["names"])
            order.add(source, *others)
    try:
        rank = {name: i for i, name in enumerate(order.static_order())}
    except CycleError as error:
        raise TieError(f"{error.args[1]} are made of each other") from None
    return sorted(
        listed, key=lambda e: rank[e["names"][-1].removesuffix(".T")] if "apart" in e else -1
    )


def _local_layer(module: nn.Module, name: str) -> LocalLayer | None:
    """The locally connected layer that is to be a convolution; ``None`` if it is one."""
    named = {unwrapped_name(own): part for own, part in unwrapped(module).named_modules()}
    layer = named.get(name)
    if isinstance(layer, LOCAL_LAYERS) and type(layer) in LOCAL_LAYERS:
        return layer
    if layer is None or not position_count(layer):
        raise TieError(f"the module has no locally connected layer {name!r} to be a convolution")
    return None


def _member(slots_by_name: Mapping[str, Slot], name: str) -> Member:
    transposed = name not in slots_by_name and name.endswith(".T")
    slot = slots_by_name.get(name.removesuffix(".T") if transposed else name)
    if slot is None:
        raise TieError(f"the module has no parameter {name!r} to be shared")
    return Member(slot, transposed)


def _check_values(tie: Tie, apart: Tensor | None) -> None:
    first, *others = tie.tensors()
    for member, other in zip(tie.members[1:], others, strict=True):
        if first.shape != other.shape:
            shapes = f"{tuple(first.shape)} and {tuple(other.shape)}"
            raise TieError(
                f"{tie.members[0].name!r} and {member.name!r} are to be one, but have shapes {shapes}"
            )
        if apart is not None:
            if not first.ndim or (
                len(apart) and not 0 <= int(apart.min()) <= int(apart.max()) < len(first)
            ):
                raise TieError(f"{member.name!r} has no units {apart.tolist()[:5]} … to be apart")
            other = other.index_copy(
                0, apart.to(other.device), first.index_select(0, apart.to(first.device))
            )
        if not agree(first, other):
            raise TieError(
                f"{tie.members[0].name!r} and {member.name!r} are to be one, but have different values"
            )
