"""Making aliases: storing a parameter or buffer under several names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor, nn

from lit_share.functional import mean
from lit_share.ties import BufferRef, ParameterRef, Source, Tie, make_transposed, parameter_refs


class AliasMaker:
    """Replaces the members of ties by the first member, under all of their names."""

    def __init__(self, module: nn.Module) -> None:
        # All names of a member must follow, including names that no pattern matches: the module
        # would keep the old parameter otherwise.
        self._refs: dict[nn.Parameter, list[ParameterRef]] = defaultdict(list)
        for ref in parameter_refs(module):
            if ref.stored is not None:
                self._refs[ref.stored].append(ref)

    def make_one(self, tie: Tie, value: Tensor) -> None:
        """Store the first member's Parameter under the names of all members, and set its value."""
        first = tie.members[0]
        others = {
            member.parameter: member.is_transposed != first.is_transposed
            for member in tie.members
            if member.parameter is not first.parameter
        }
        for parameter, is_transposed in others.items():
            for ref in self._refs.pop(parameter):
                # A Parameter and its transpose differ in shape: a transpose is computed on access.
                if is_transposed:
                    kept = self._refs[first.parameter][0]
                    make_transposed(ref.owner, ref.attribute, Source(kept.owner, kept.attribute))
                else:
                    ref.put(first.parameter)
                    self._refs[first.parameter].append(ref)
        first.parameter.copy_(value.T if first.is_transposed else value)


def make_buffer_one(refs: Sequence[BufferRef], averaged: bool) -> None:
    """Store the first buffer under all names, optionally with the mean of all as value."""
    first = refs[0].stored
    # Integers, such as `num_batches_tracked`, have no mean.
    if averaged and (first.is_floating_point() or first.is_complex()):
        first.copy_(mean([ref.stored for ref in refs]))
    for ref in refs[1:]:
        ref.put(first)
