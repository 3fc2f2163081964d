"""Hard sharing: one Parameter in several places of a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lit_share.functional import mean
from lit_share.sharing._arguments import check_choice, check_ties
from lit_share.sharing._derived import can_be_derived
from lit_share.sharing._error import TieError
from lit_share.sharing._places import Places, make_buffer_one, unequal_units
from lit_share.sharing._record import remember_shared
from lit_share.sharing._shareable import check_buffers, check_shareable
from lit_share.sharing._tie import Slot, Tie, buffer_slots, slots
from lit_share.sharing._ties import Ties
from lit_share.sharing.positions._share import check_positions, share_positions

Init = Literal["mean", "first"]
Where = Literal["all", "equal"]


@torch.no_grad()
def share(
    module: nn.Module,
    ties: Ties,
    init: Init = "mean",
    *,
    where: Where = "all",
    buffers: bool = False,
) -> list[Tie]:
    """Make the members of each tie one `torch.nn.Parameter`.

    The slices of a parameter (``[:]``) are one where they are the positions of a `LocallyConnected2d` or
    `LocallyConnected1d`: the layer becomes a convolution, which loads what the layer saved if its positions are equal.

    All names stay as they are, in ``state_dict`` too, so checkpoints of the untied module fit. A transposed member
    (``.T``) is made of the stored one whenever it is read. What is shared stays so when the module is moved, copied,
    pickled or loaded; a state dict in which the members have different values is refused from then on. To be called
    before the optimizer is made, which would otherwise go on with parameters that are not the module's any more, and
    before the module is wrapped for distributed training.

    With ``where="equal"`` only what has become exactly equal is shared, as by a penalty with a proximal step: members
    that are equal as a whole, and units (along dim 0 of the members) that are equal in all members. Numbers that were
    equal from the beginning and not trained yet are among these, such as biases that start at zero: train first, or
    exclude them. The module then computes what it did before. A member of which some units are shared, like a
    transposed one, is no Parameter any more but a tensor that is computed when it is read: ``named_parameters`` has its
    own units only, and what is written to it in place is lost. Load a state dict instead, write to the first member, or
    `unshare` first.

    Args:
        module: The module, changed in place.
        ties: Which parameters are shared.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        where: ``"all"``, or ``"equal"``: only where the members are equal. Units that are smaller than the index of
            those that are not, and units of recurrent layers, stay apart.
        buffers: Whether buffers whose names fit the patterns, such as the statistics of batch normalisation, are
            shared as well; otherwise each model keeps its own.

    Returns:
        The ties that are now shared, wholly or in part.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a tie cannot be shared: it has one
            member, members are slices of other parameters than those of locally connected layers, they differ in
            dtype, device or ``requires_grad``, they are already sharded over processes, or they share units with a
            parameter outside the tie.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["a"].weight is pair["b"].weight
        True
        >>> sum(parameter.numel() for parameter in pair.parameters())
        8
    """
    check_ties(ties)
    check_choice("init", init, Init)
    check_choice("where", where, Where)
    found = ties.find(module)
    sliced = [tie for tie in found if any(member.part is not None for member in tie.members)]
    apart = [tie for tie in found if tie not in sliced and not _is_shared(tie)]
    layers = check_positions(module, sliced)
    check_shareable(module, apart)
    rows = ties.buffers(module) if buffers else []
    if buffers:
        check_buffers(ties, rows)
    if where == "equal":
        _check_values_are_there([*sliced, *apart])
    places = Places(module)
    for tie in apart:
        tensors = tie.tensors()
        if where == "all":
            places.make_one(tie, mean(tensors) if init == "mean" else tensors[0])
            continue
        units = unequal_units(tensors)
        if units is None or _is_worth_it(tie, units):
            places.share_units(tie, units)
    share_positions(module, layers, averaged=init == "mean", only_equal=where == "equal")
    if where == "equal":
        rows = [
            row
            for row in rows
            if all(torch.equal(row[0].stored, place.stored) for place in row[1:])
        ]
    for row in rows:
        make_buffer_one(row, averaged=init == "mean")
    remember_shared(module, rows)
    found = ties.find(module) if sliced else found  # in the convolutions
    return [tie for tie in found if tie.is_one or tie.is_partial]


@torch.no_grad()
def unshare(module: nn.Module, ties: Ties | None = None) -> None:
    """Give every name its own copy of a shared parameter again, with the same value.

    To be called before the optimizer is made. Positions that became a convolution stay so: see
    `LocallyConnected2d.from_conv`.

    Args:
        module: The module, changed in place.
        ties: Which parameters get copies of their own; all parameters and buffers that have several names where it is
            ``None``.

    Raises:
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> unshare(pair)
        >>> pair["a"].weight is pair["b"].weight
        False
    """
    if ties is not None:
        check_ties(ties)
    copies: dict[tuple[nn.Parameter, int], nn.Parameter] = {}
    first: dict[nn.Parameter, int] = {}
    done: set[tuple[int, str]] = set()
    for side, slot in _sides(module, ties):
        parameter = slot.parameter
        if (id(slot.owner), slot.attribute) in done:
            continue
        done.add((id(slot.owner), slot.attribute))
        if slot.derived is not None:
            slot.put(
                nn.Parameter(
                    slot.full().clone(memory_format=torch.contiguous_format),
                    parameter.requires_grad,
                )
            )
        elif first.setdefault(parameter, side) != side:
            if (parameter, side) not in copies:
                copies[parameter, side] = nn.Parameter(
                    parameter.detach().clone(), parameter.requires_grad
                )
            slot.put(copies[parameter, side])
    rows = [list(buffer_slots(module))] if ties is None else ties.buffers(module)
    for row in rows:
        held: set[int] = set()
        for place in row:
            if id(place.stored) in held:
                place.put(place.stored.clone())
            held.add(id(place.stored))
    remember_shared(module)


def _sides(module: nn.Module, ties: Ties | None) -> list[tuple[int, Slot]]:
    """What is to be apart: all places, or the patterns, which may each match one parameter in several places."""
    if ties is None:
        return list(enumerate(slots(module)))
    return [numbered for _, row in ties.places(module) for numbered in enumerate(row)]


def _is_shared(tie: Tie) -> bool:
    """Whether the members are one already; a single one is not, unless it is that of a convolution's one position."""
    return tie.is_one and (len(tie.members) > 1 or tie.members[0].index is not None)


def _check_values_are_there(ties: Sequence[Tie]) -> None:
    for tie in ties:
        if tie.members[0].parameter.is_meta:
            raise TieError(
                f"{tie.members[0].name!r} is on the meta device, where no values are equal: load it first"
            )


def _is_worth_it(tie: Tie, apart: Tensor) -> bool:
    """Whether members of which all units but these are shared take fewer bytes, and are not so already."""
    tensor = tie.tensors()[0]
    units = len(tensor) if tensor.ndim else 1
    saved = (units - len(apart)) * (tensor.numel() // units) * tensor.element_size()
    hows = [member.slot.derived for member in tie.members[1:]]
    done = all(
        how is not None and how.apart is not None and torch.equal(how.apart, apart) for how in hows
    )
    possible = all(can_be_derived(member.slot.owner) for member in tie.members[1:])
    return saved > len(apart) * apart.element_size() and possible and not done
