"""What can be one parameter, and what cannot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.sharing._derived import can_be_derived
from lit_share.sharing._error import TieError
from lit_share.sharing._shards import sharded_parts
from lit_share.sharing._tie import BufferSlot, Member, Tie, unwrapped
from lit_share.sharing._ties import Ties
from lit_share.sharing.codebook._layers import CODEBOOKS


def check_shareable(module: nn.Module, ties: Sequence[Tie]) -> None:
    """Raise, naming the members, if a tie cannot be shared."""
    # Parameters of a sharded module are whole for a while, between a forward pass and the next step.
    sharded = sharded_parts(unwrapped(module))
    for tie in ties:
        if len(tie.members) < 2:
            raise TieError(
                f"hard sharing of {_names(tie)} needs at least two members: give a pattern for each place"
            )
        for member in tie.members:
            if isinstance(member.parameter, DTensor) or id(member.slot.owner) in sharded:
                raise TieError(
                    f"{member.name!r} is already sharded: share before the module is wrapped by fully_shard, with "
                    "lit_share.share in configure_model where that does both"
                )
            if member.slot.is_partial and not _is_made_of_members(member, tie):
                raise TieError(
                    f"{member.name!r} shares units with a parameter that is not in this tie: name all in one"
                )
        _check_orientation(tie)
        _check_traits(tie)
        _check_codebooks(tie)


def check_units(tie: Tie, apart: Tensor | None) -> None:
    """Raise if only some units of the members are to be shared, and their modules cannot do with that."""
    for member in tie.members[1:] if apart is not None else ():
        if not can_be_derived(member.slot.owner):
            raise TieError(
                f"{member.name!r} belongs to a {type(member.slot.owner).__name__}, which needs all of its units"
            )


def check_buffers(ties: Ties, rows: Sequence[Sequence[BufferSlot]]) -> None:
    """Raise if there are no buffers to be shared, or they cannot be."""
    if not rows:
        raise TieError(f"buffers=True, but no buffer fits all patterns of {ties}: leave it out")
    for row in rows:
        kinds = {
            place.name: (tuple(place.stored.shape), place.stored.dtype, place.stored.device)
            for place in row
        }
        if len(set(kinds.values())) > 1:
            raise TieError(f"shared buffers must agree in shape, dtype and device: {kinds}")


def _check_orientation(tie: Tie) -> None:
    first, turned = tie.members[0], dict[nn.Parameter, bool]()
    for member in tie.members:
        if turned.setdefault(member.parameter, member.is_turned) != member.is_turned:
            raise TieError(
                f"{_names(tie)} cannot be one: {member.name!r} is shared as the transpose of another of them"
            )
        if member.is_turned != first.is_turned and not can_be_derived(member.slot.owner):
            raise TieError(
                f"{member.name!r} belongs to a {type(member.slot.owner).__name__}, which cannot use a transposed "
                "parameter: recurrent layers keep a list of their weights, and parametrizations come after sharing"
            )


def _check_traits(tie: Tie) -> None:
    for trait in ("dtype", "device", "requires_grad"):
        values = [getattr(parameter, trait) for parameter in tie.parameters]
        if len(set(values)) > 1:
            listed = ", ".join(
                f"{m.name!r} has {v}" for m, v in zip(tie.members, values, strict=True)
            )
            remedy = {
                "dtype": "module.to(dtype)",
                "device": "module.to(device)",
                "requires_grad": "requires_grad_",
            }[trait]
            raise TieError(
                f"shared parameters must agree in {trait}: {listed}; make them so with {remedy}"
            )


def _check_codebooks(tie: Tie) -> None:
    owners = {m.name: m.slot.owner for m in tie.members if m.slot.attribute == "weight"}
    assignments = {
        name: o.assignment if isinstance(o, CODEBOOKS) else None for name, o in owners.items()
    }
    (first, one), *others = assignments.items() or [("", None)]
    for name, other in others:
        if (one is None) != (other is None) or (
            one is not None and other is not None and not torch.equal(one, other)
        ):
            raise TieError(
                f"{first!r} and {name!r} are codebooks of different clusters, whose rows do not correspond: share "
                "before rows are tied, or call lit_share.densify"
            )


def _is_made_of_members(member: Member, tie: Tie) -> bool:
    source = member.slot.source
    return source is not None and any(source.parameter is other.parameter for other in tie.members)


def _names(tie: Tie) -> str:
    return ", ".join(repr(member.name) for member in tie.members)
