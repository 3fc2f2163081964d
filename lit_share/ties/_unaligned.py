"""Ties whose members start from unrelated weights, so that their units may not correspond."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lit_share.text import visible
from lit_share.ties._distributed import is_dtensor
from lit_share.ties._names import and_more
from lit_share.ties._refs import ParameterRef, parameter_refs
from lit_share.ties._tie import Tie

# Copies have a cosine of 1, also after some training; independent draws have a cosine of about 0.
_UNRELATED = 0.2


def find_unaligned(ties: Iterable[Tie], module: nn.Module) -> list[Tie]:
    """Return the ties in which a member's weights are unrelated to those of the first member.

    Args:
        ties: Ties of the module.
        module: The module they were found in.

    Returns:
        The ties in which the cosine of the angle between the two members is near 0.
    """
    # The only layer of each model is left out: the data decide the order of its inputs and outputs.
    layers = sum(_is_weight(ref) for ref in parameter_refs(module))
    return [
        tie
        for tie in ties
        if len(tie.members) < layers and _may_be_permuted(tie) and _is_unrelated(tie)
    ]


def find_unlike_transposes(ties: Iterable[Tie]) -> list[Tie]:
    """Return the ties of a matrix and a transpose whose weights are unrelated.

    Their units correspond, as those of an encoder and its decoder do, so that permuting these is no
    help.
    """
    found = []
    for tie in ties:
        suffixes = {member.suffix for member in tie.members}
        if len(suffixes) > 1 and not any(suffix.slices for suffix in suffixes):
            found.append(tie)
    return [tie for tie in found if _is_unrelated(tie)]


def unlike_remark(names: Sequence[str]) -> str:
    """Return the remark on ties of a matrix and a transpose with these names."""
    named = visible(names[0]) + and_more(len(names) - 1)
    return (
        f"the members of {named} start from unrelated weights: their units correspond, but have to "
        "become alike first; let them start so, with lit_share.same_start(module, ties)"
    )


def unaligned_remark(names: Sequence[str]) -> str:
    """Return the remark on unaligned ties with these names."""
    named = visible(names[0]) + and_more(len(names) - 1)
    return (
        f"the members of {named} start from unrelated weights, so that their units do not "
        "correspond: initialise them alike, with copy.deepcopy, lit_share.same_start(module, ties) "
        "or lit_share.Paired(..., same_init=True), or permute their units with lit_share.align or "
        "the callback lit_share.Align"
    )


def _is_weight(ref: ParameterRef) -> bool:
    return not isinstance(ref.stored, UninitializedParameter) and ref.tensor.ndim > 1


def _may_be_permuted(tie: Tie) -> bool:
    # Slices and transposes belong to the units of one model, so their order is the same.
    suffixes = {member.suffix for member in tie.members}
    is_sliced = any(suffix.slices for suffix in suffixes)
    return len(suffixes) == 1 and not is_sliced and len(tie.shape) > 1


def _is_unrelated(tie: Tie) -> bool:
    first, *others = tie.tensors()
    return any(_cosine(first, other) < _UNRELATED for other in others)


def _cosine(a: Tensor, b: Tensor) -> float:
    """Return |cosine| of two tensors, flattened; 1 for zeros, integers, DTensors, meta tensors."""
    # Shards would need a collective, for a remark only.
    if any(t.is_meta or is_dtensor(t) or not t.is_floating_point() for t in (a, b)):
        return 1.0
    first, second = a.flatten().float(), b.flatten().to(a.device).float()
    size = first.norm() * second.norm()
    return float(torch.dot(first, second).abs() / size) if size > 0.0 else 1.0
