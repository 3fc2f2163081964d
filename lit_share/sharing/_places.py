"""Putting one parameter into all places of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_share.functional import mean
from lit_share.sharing._derived import Derived, derive
from lit_share.sharing._tie import BufferSlot, Slot, Tie, slots


class Places:
    """All places of a module, by the parameter that is stored there."""

    def __init__(self, module: nn.Module) -> None:
        self._of: dict[nn.Parameter, list[Slot]] = defaultdict(list)
        for slot in slots(module):
            if slot.stored is not None:
                self._of[slot.stored].append(slot)

    def make_one(self, tie: Tie, value: Tensor) -> None:
        """Store this value once for all members of a tie."""
        self._store_in_full(tie)
        first = tie.members[0]
        for parameter, turned in _others(tie).items():
            for slot in self._of.pop(parameter):
                if turned:
                    derive(
                        slot.owner, slot.attribute, self._made_of(first.parameter, transposed=True)
                    )
                else:
                    slot.put(first.parameter)
                    self._of[first.parameter].append(slot)
        first.parameter.copy_(value.T if first.is_turned else value)

    def share_units(self, tie: Tie, apart: Tensor | None) -> None:
        """Store equal members once, or only those units of them that are not ``apart``."""
        if apart is None:
            self.make_one(tie, tie.tensors()[0])
            return
        self._store_in_full(tie)
        first = tie.members[0]
        for parameter, turned in _others(tie).items():
            how = self._made_of(
                first.parameter, transposed=turned, dim=int(first.is_turned), apart=apart
            )
            places = self._of.pop(parameter)
            own = nn.Parameter(how.own_part(places[0].full()), parameter.requires_grad)
            for slot in places:
                derive(slot.owner, slot.attribute, how, own)
            self._of[own] = places

    def _store_in_full(self, tie: Tie) -> None:
        """Give members of which some units are shared a parameter of all units."""
        for member in tie.members:
            own = member.slot.stored
            if member.slot.is_partial and own is not None:
                whole = nn.Parameter(member.slot.full(), own.requires_grad)
                self._of[whole] = self._of.pop(own)
                for slot in self._of[whole]:
                    slot.put(whole)

    def _made_of(
        self, parameter: nn.Parameter, transposed: bool, dim: int = 0, apart: Tensor | None = None
    ) -> Derived:
        home = next(slot for slot in self._of[parameter] if slot.derived is None)
        return Derived(home.owner, home.attribute, transposed, dim, apart)


def _others(tie: Tie) -> dict[nn.Parameter, bool]:
    """The parameters of the members that have not the first one's, and whether they are its transpose."""
    first = tie.members[0]
    return {
        m.parameter: m.is_turned != first.is_turned
        for m in tie.members
        if m.parameter is not first.parameter
    }


def make_buffer_one(row: Sequence[BufferSlot], averaged: bool) -> None:
    """Hold the first buffer in all places, with the mean of all if it is a mean of numbers at all."""
    first = row[0].stored
    if averaged and (first.is_floating_point() or first.is_complex()):
        first.copy_(mean([place.stored for place in row]))
    for place in row[1:]:
        place.put(first)


def unequal_units(members: Sequence[Tensor]) -> Tensor | None:
    """The units (along dim 0) in which members differ; ``None`` if there are none."""
    first, *others = members
    equal = torch.stack([first == other for other in others]).all(dim=0)
    if equal.all():
        return None
    units = equal.flatten(1).all(dim=1) if equal.ndim > 1 else equal.reshape(-1)
    return (~units).nonzero().flatten()
