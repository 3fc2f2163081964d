"""Making aliases: one Parameter or buffer under several names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor, nn

from lit_share.functional import mean
from lit_share.ties import BufferRef, ParameterRef, Source, Tie, make_transposed, parameter_refs


class AliasMaker:
    """Makes the members of ties one Parameter, under all names that hold theirs."""

    def __init__(self, module: nn.Module) -> None:
        self._refs: dict[nn.Parameter, list[ParameterRef]] = defaultdict(list)
        for ref in parameter_refs(module):
            if ref.stored is not None:
                self._refs[ref.stored].append(ref)

    def make_one(self, tie: Tie, value: Tensor) -> None:
        """Store ``value`` once for all members: the first member's Parameter takes every place."""
        first = tie.members[0]
        others = {
            member.parameter: member.is_transposed != first.is_transposed
            for member in tie.members
            if member.parameter is not first.parameter
        }
        for parameter, is_transposed in others.items():
            for ref in self._refs.pop(parameter):
                if is_transposed:
                    home = self._refs[first.parameter][0]
                    make_transposed(ref.owner, ref.attribute, Source(home.owner, home.attribute))
                else:
                    ref.put(first.parameter)
                    self._refs[first.parameter].append(ref)
        first.parameter.copy_(value.T if first.is_transposed else value)


def make_buffer_one(refs: Sequence[BufferRef], averaged: bool) -> None:
    """Store the first buffer under all names, with the mean of all if they are floating-point."""
    first = refs[0].stored
    if averaged and (first.is_floating_point() or first.is_complex()):
        first.copy_(mean([ref.stored for ref in refs]))
    for ref in refs[1:]:
        ref.put(first)
