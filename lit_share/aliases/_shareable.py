"""Checks that parameters and buffers can be shared."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from lit_share.ties import (
    BufferRef,
    SharesWith,
    Tie,
    TieError,
    can_hold_transposed,
    is_dtensor,
    sharded_modules,
    unwrapped,
)

_REMEDIES = {
    "dtype": "module.to(dtype)",
    "device": "module.to(device)",
    "requires_grad": "requires_grad_",
}


def check_shareable(module: nn.Module, ties: Sequence[Tie]) -> None:
    """Raise `TieError`, naming the members, if a tie cannot be shared."""
    # FSDP2 modules hold full parameters between a forward pass and the next step, so the type of a
    # parameter alone does not show that its module is sharded.
    sharded = sharded_modules(unwrapped(module))
    for tie in ties:
        if len(tie.members) < 2:
            raise TieError(
                f"hard sharing of {_names(tie)} needs at least two members: give a pattern for "
                "each place"
            )
        for member in tie.members:
            if is_dtensor(member.parameter) or id(member.ref.owner) in sharded:
                raise TieError(
                    f"{member.name!r} is already sharded: share before the module is wrapped by "
                    "fully_shard, with lit_share.share in configure_model where that does both"
                )
        _check_orientation(tie)
        _check_traits(tie)
        _check_layers(tie)


# Running statistics, whose mean is that of all data.
_STATISTICS = re.compile(r"running_\w+|num_batches_tracked")


def check_buffers(groups: Sequence[Sequence[BufferRef]], averaged: bool) -> None:
    """Raise `TieError` if buffers cannot be shared, as with their mean if they are averaged."""
    for refs in groups:
        kinds = {
            ref.name: (tuple(ref.stored.shape), ref.stored.dtype, ref.stored.device) for ref in refs
        }
        if len(set(kinds.values())) > 1:
            raise TieError(f"shared buffers must agree in shape, dtype and device: {kinds}")
        if not averaged or all(_STATISTICS.fullmatch(ref.attribute) for ref in refs):
            continue
        first, *others = (ref.stored for ref in refs)
        # Of masks and bases a mean is neither.
        if not first.is_meta and not all(torch.equal(first, other) for other in others):
            names = ", ".join(repr(ref.name) for ref in refs)
            raise TieError(
                f"{names} differ, and are no running statistics, which have a mean: make them "
                'equal, exclude them from the ties, or take the first by init="first"'
            )


def _check_orientation(tie: Tie) -> None:
    first, orientation = tie.members[0], dict[nn.Parameter, bool]()
    # A parameter that occurs with both orientations would have to be its own transpose.
    for member in tie.members:
        known = orientation.setdefault(member.parameter, member.is_transposed)
        if known != member.is_transposed:
            raise TieError(
                f"{_names(tie)} cannot be shared: {member.name!r} is already the transpose of "
                "another of them"
            )
        needs_transpose = member.is_transposed != first.is_transposed
        if needs_transpose and not can_hold_transposed(member.ref.owner):
            raise TieError(
                f"{member.name!r} belongs to a {type(member.ref.owner).__name__}, which cannot use "
                "a transposed parameter: recurrent layers keep a list of their weights, and "
                "parametrizations come after sharing"
            )


def _check_traits(tie: Tie) -> None:
    # A silent conversion of some members would be a surprise, so users convert them themselves.
    for trait, remedy in _REMEDIES.items():
        values = [getattr(parameter, trait) for parameter in tie.parameters]
        if len(set(values)) > 1:
            pairs = zip(tie.members, values, strict=True)
            listed = ", ".join(f"{member.name!r} has {value}" for member, value in pairs)
            raise TieError(
                f"shared parameters must agree in {trait}: {listed}; make them so with {remedy}"
            )


def _check_layers(tie: Tie) -> None:
    first, *others = tie.members
    for other in others:
        # Either layer may refuse, as only special layers implement `SharesWith`.
        for member, partner in ((first, other), (other, first)):
            layer = member.ref.owner
            if not isinstance(layer, SharesWith):
                continue
            reason = layer.reason_not_to_share(member.ref.attribute, partner.ref.owner)
            if reason is not None:
                raise TieError(f"{first.name!r} and {other.name!r} {reason}")


def _names(tie: Tie) -> str:
    return ", ".join(repr(member.name) for member in tie.members)
