"""Hard sharing: one Parameter in several places of a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from lit_share.functional import mean
from lit_share.sharing._derived import Derived, derive
from lit_share.sharing._error import TieError
from lit_share.sharing._record import agree, remember_shared
from lit_share.sharing._tie import BufferSlot, Member, Slot, Tie, buffer_slots, slots, unwrapped
from lit_share.sharing._ties import Ties

Init = Literal["mean", "first"]
Where = Literal["all", "equal"]


@torch.no_grad()
def share(
    module: nn.Module, ties: Ties, init: Init = "mean", *, where: Where = "all", buffers: bool = False
) -> list[Tie]:
    """Make the members of each tie one `torch.nn.Parameter`.

    All names stay as they are, in ``state_dict`` too, so checkpoints of the untied module fit. A transposed member
    (``.T``) is made of the stored one whenever it is read. What is shared stays so when the module is moved, copied,
    pickled or loaded; a state dict in which the members have different values is refused from then on. To be called
    before the optimizer is made, and before the module is wrapped for distributed training.

    With ``where="equal"`` only what has become exactly equal is shared, as by a penalty with a proximal step: members
    that are equal as a whole, and units (along dim 0 of the members) that are equal in all members. The module then
    computes what it did before.

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
            member, members are slices of parameters, they differ in dtype, device or ``requires_grad``, they are
            already sharded over processes, or they share units with a parameter outside the tie.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.*", "b.*"))
        >>> pair["a"].weight is pair["b"].weight
        True
        >>> sum(parameter.numel() for parameter in pair.parameters())
        8
    """
    for name, value, known in (("init", init, Init), ("where", where, Where)):
        if value not in get_args(known):
            raise ValueError(f"unknown {name} {value!r}: write one of {', '.join(map(repr, get_args(known)))}")
    found = ties.find(module)
    apart = [tie for tie in found if len(tie.members) < 2 or not tie.is_one]
    for tie in apart:
        _check_shareable(module, tie)
    rows = ties.buffers(module) if buffers else []
    if buffers:
        _check_buffers(ties, rows)
    for tie in apart:
        tensors = tie.tensors()
        if where == "equal" and tensors[0].is_meta:
            raise TieError(f"{tie.members[0].name!r} is on the meta device, where no values are equal: load it first")
        if where == "all":
            _make_one(module, tie, mean(tensors) if init == "mean" else tensors[0])
            continue
        units = _unequal_units(tensors)
        if units is None or _is_worth_it(tie, units):
            _share_units(module, tie, units)
    for row in rows:
        if where == "all" or all(torch.equal(row[0].stored, slot.stored) for slot in row[1:]):
            _make_buffer_one(row, init)
    remember_shared(module)
    return [tie for tie in found if tie.is_one or any(member.slot.is_partial for member in tie.members)]


@torch.no_grad()
def unshare(module: nn.Module, ties: Ties | None = None) -> None:
    """Give every name its own copy of a shared parameter again, with the same value.

    To be called before the optimizer is made.

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
    # What is to be apart: all places, or the patterns, which may each match one parameter in several places.
    sides = enumerate(slots(module)) if ties is None else (s for _, row in ties.places(module) for s in enumerate(row))
    copies: dict[tuple[nn.Parameter, int], nn.Parameter] = {}
    first: dict[nn.Parameter, int] = {}
    done: set[tuple[int, str]] = set()
    for side, slot in list(sides):
        parameter = slot.parameter
        if (id(slot.owner), slot.attribute) in done:
            continue
        done.add((id(slot.owner), slot.attribute))
        if slot.derived is not None:
            slot.put(nn.Parameter(slot.full().clone(memory_format=torch.contiguous_format), parameter.requires_grad))
        elif first.setdefault(parameter, side) != side:
            if (parameter, side) not in copies:
                copies[parameter, side] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            slot.put(copies[parameter, side])
    rows = [list(buffer_slots(module))] if ties is None else ties.buffers(module)
    for row in rows:
        held: set[int] = set()
        for place in row:
            if id(place.stored) in held:
                place.put(place.stored.clone())
            held.add(id(place.stored))
    remember_shared(module)


@torch.no_grad()
def rebuild_shared(module: nn.Module, entries: Iterable[Mapping[str, Any]]) -> None:
    """Make one again what `shared_places` found, in a module with the same values.

    Args:
        module: The module, changed in place.
        entries: What `shared_places` returned.

    Raises:
        TieError: If a place is not there or cannot be shared, or values that were one are different; nothing is
            changed then.
    """
    parameters = {slot.name: slot for slot in slots(module)}
    buffers = {slot.name: slot for slot in buffer_slots(module)}
    rows: list[list[BufferSlot]] = []
    ties: list[tuple[Tie, Tensor | None]] = []
    for entry in entries:
        names: Sequence[str] = entry["names"]
        if all(name in buffers for name in names):
            rows.append([buffers[name] for name in names])
            if not all(agree(rows[-1][0].stored, place.stored) for place in rows[-1][1:]):
                raise TieError(f"{' and '.join(map(repr, names))} are to be one, but have different values")
            continue
        tie = Tie(names[0], tuple(_member(parameters, name) for name in names))
        units = torch.tensor(entry["apart"], dtype=torch.long) if "apart" in entry else None
        _check_values(tie, units)
        if not tie.is_one:
            _check_shareable(module, tie)
            ties.append((tie, units))
    for tie, units in ties:
        _share_units(module, tie, units)
    for row in rows:
        _make_buffer_one(row, "first")
    remember_shared(module)


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
            raise TieError(f"{tie.members[0].name!r} and {member.name!r} are to be one, but have shapes {shapes}")
        if apart is not None:
            if not first.ndim or (len(apart) and not 0 <= int(apart.min()) <= int(apart.max()) < len(first)):
                raise TieError(f"{member.name!r} has no units {apart.tolist()[:5]} … to be apart")
            other = other.index_copy(0, apart.to(other.device), first.index_select(0, apart.to(first.device)))
        if not agree(first, other):
            raise TieError(f"{tie.members[0].name!r} and {member.name!r} are to be one, but have different values")


def _make_one(module: nn.Module, tie: Tie, value: Tensor) -> None:
    """Store this value once for all members."""
    _store_in_full(module, tie)
    first = tie.members[0]
    first.parameter.copy_(value.T if first.is_turned else value)
    for slot, turned in _places_of_others(module, tie):
        if turned:
            derive(slot.owner, slot.attribute, _made_of(module, first.parameter, transposed=True))
        else:
            slot.put(first.parameter)


def _share_units(module: nn.Module, tie: Tie, apart: Tensor | None) -> None:
    """Store equal members once, or only those units of them that are not ``apart``."""
    if apart is None:
        _make_one(module, tie, tie.tensors()[0])
        return
    _store_in_full(module, tie)
    first = tie.members[0]
    own: dict[nn.Parameter, nn.Parameter] = {}
    for slot, turned in _places_of_others(module, tie):
        how = _made_of(module, first.parameter, transposed=turned, dim=int(first.is_turned), apart=apart)
        parameter = slot.parameter
        if parameter not in own:
            own[parameter] = nn.Parameter(how.own_part(slot.full()), parameter.requires_grad)
        derive(slot.owner, slot.attribute, how, own[parameter])


def _unequal_units(members: Sequence[Tensor]) -> Tensor | None:
    """The units in which members differ; ``None`` if there are none."""
    first, *others = members
    equal = torch.stack([first == other for other in others]).all(dim=0)
    if equal.all():
        return None
    units = equal.flatten(1).all(dim=1) if equal.ndim > 1 else equal.reshape(-1)
    return (~units).nonzero().flatten()


def _is_worth_it(tie: Tie, apart: Tensor) -> bool:
    """Whether members of which all units but these are shared take fewer bytes, and are not so already."""
    tensor = tie.tensors()[0]
    units = len(tensor) if tensor.ndim else 1
    saved = (units - len(apart)) * (tensor.numel() // units) * tensor.element_size()
    hows = [member.slot.derived for member in tie.members[1:]]
    done = all(how is not None and how.apart is not None and torch.equal(how.apart, apart) for how in hows)
    recurrent = any(isinstance(member.slot.owner, nn.RNNBase) for member in tie.members)
    return saved > len(apart) * apart.element_size() and not recurrent and not done


def _store_in_full(module: nn.Module, tie: Tie) -> None:
    """Give members of which some units are shared a parameter of all units."""
    for member in tie.members:
        if member.slot.is_partial:
            own, whole = member.slot.stored, nn.Parameter(member.slot.full(), member.parameter.requires_grad)
            for slot in slots(module):
                if slot.stored is own:
                    slot.put(whole)


def _places_of_others(module: nn.Module, tie: Tie) -> list[tuple[Slot, bool]]:
    """All places that store another parameter than the first member's, and whether they are its transpose."""
    first = tie.members[0]
    turned = {m.parameter: m.is_turned != first.is_turned for m in tie.members if m.parameter is not first.parameter}
    return [(slot, turned[slot.stored]) for slot in slots(module) if slot.stored is not None and slot.stored in turned]


def _made_of(module: nn.Module, parameter: nn.Parameter, **how: Any) -> Derived:
    home = next(slot for slot in slots(module) if slot.stored is parameter and slot.derived is None)
    return Derived(home.owner, home.attribute, **how)


def _make_buffer_one(row: Sequence[BufferSlot], init: Init) -> None:
    first = row[0].stored
    if init == "mean" and first.is_floating_point():
        first.copy_(mean([place.stored for place in row]))
    for place in row[1:]:
        place.put(first)


def _check_buffers(ties: Ties, rows: Sequence[Sequence[BufferSlot]]) -> None:
    if not rows:
        raise TieError(f"buffers=True, but no buffer fits all patterns of {ties}: leave it out")
    for row in rows:
        kinds = {place.name: (tuple(place.stored.shape), place.stored.dtype, place.stored.device) for place in row}
        if len(set(kinds.values())) > 1:
            raise TieError(f"shared buffers must agree in shape, dtype and device: {kinds}")


def _check_shareable(module: nn.Module, tie: Tie) -> None:
    names = ", ".join(repr(member.name) for member in tie.members)
    if len(tie.members) < 2:
        raise TieError(f"hard sharing of {names} needs at least two members: give a pattern for each place")
    sharded = {id(part) for m in unwrapped(module).modules() if isinstance(m, FSDPModule) for part in m.modules()}
    first, turned = tie.members[0], dict[nn.Parameter, bool]()
    for member in tie.members:
        if member.index is not None:
            raise TieError(f"{member.name!r} is a slice of a parameter: only whole parameters can be shared")
        # Parameters of a group are not sharded for a while, between a forward pass and the next step.
        if isinstance(member.parameter, DTensor) or id(member.slot.owner) in sharded:
            raise TieError(
                f"{member.name!r} is already sharded: share before the module is wrapped by fully_shard, with "
                "lit_share.share in configure_model where that does both"
            )
        if turned.setdefault(member.parameter, member.is_turned) != member.is_turned:
            raise TieError(f"{names} cannot be one: {member.name!r} is shared as the transpose of another of them")
        if isinstance(member.slot.owner, nn.RNNBase) and member.is_turned != first.is_turned:
            raise TieError(f"{member.name!r} belongs to a recurrent layer, which cannot use a transposed parameter")
        if member.slot.is_partial and not _is_made_of_members(member, tie):
            raise TieError(f"{member.name!r} shares units with a parameter that is not in this tie: name all in one")
    for trait in ("dtype", "device", "requires_grad"):
        values = [getattr(parameter, trait) for parameter in tie.parameters]
        if len(set(values)) > 1:
            listed = ", ".join(f"{m.name!r} has {v}" for m, v in zip(tie.members, values, strict=True))
            raise TieError(f"shared parameters must agree in {trait}: {listed}")


def _is_made_of_members(member: Member, tie: Tie) -> bool:
    source = member.slot.source
    return source is not None and any(source.parameter is other.parameter for other in tie.members)
