"""Whether the members of a tie start from weights that have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import UninitializedParameter

from lit_share.sharing._tie import Slot, Tie, slots
from lit_share.text import visible

_UNRELATED = 0.2  # copies have 1, also after some training of each; weights that were drawn apart have about 0


def starting_apart(ties: Iterable[Tie], module: nn.Module) -> list[Tie]:
    """The ties of units that do not correspond, because the members' weights were drawn apart.

    Only those of weights whose units may be in any order: not of slices and transposes, which belong to the units of
    one model, nor of the only layer of each model, whose inputs and outputs are those of the data.

    Args:
        ties: Of the module.
        module: What they were found in.

    Returns:
        The ties in which the cosine of the angle between a member and the first one is near 0.
    """
    layers = sum(_is_weight(slot) for slot in slots(module))
    return [
        tie
        for tie in ties
        if len(tie.members) < layers and _is_of_weights(tie) and _starts_apart(tie)
    ]


def remark_on(apart: Sequence[str]) -> str:
    """What is said of ties with these names, which start apart."""
    others = f" and {len(apart) - 1} more" if apart[1:] else ""
    return (
        f"the members of {visible(apart[0])}{others} start from unrelated weights, so that their units do not "
        "correspond: let them start from the same, by copy.deepcopy or lit_share.Paired(..., same_init=True)"
    )


def _is_weight(slot: Slot) -> bool:
    return not isinstance(slot.stored, UninitializedParameter) and slot.full().ndim > 1


def _is_of_weights(tie: Tie) -> bool:
    parts = {(member.index, member.transposed) for member in tie.members}
    return parts in ({(None, False)}, {(None, True)}) and len(tie.shape) > 1


def _starts_apart(tie: Tie) -> bool:
    first, *others = tie.tensors()
    return any(_cosine(first, other) < _UNRELATED for other in others)


def _cosine(one: Tensor, other: Tensor) -> float:
    """The absolute cosine of the angle between two tensors; 1 where it cannot be told."""
    if any(t.is_meta or isinstance(t, DTensor) or not t.is_floating_point() for t in (one, other)):
        return 1.0
    first, second = one.flatten().float(), other.flatten().to(one.device).float()
    size = first.norm() * second.norm()
    return float(torch.dot(first, second).abs() / size) if size > 0.0 else 1.0
