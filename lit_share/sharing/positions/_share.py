"""Sharing the positions of locally connected layers: they become convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_share.sharing._error import TieError
from lit_share.sharing._modules import has_hooks, places_of, replace_module, shared_with
from lit_share.sharing._tie import Tie, shortened
from lit_share.sharing.positions._layers import LOCAL_LAYERS, LocalLayer


def check_positions(module: nn.Module, ties: Sequence[Tie]) -> dict[LocalLayer, list[Tie]]:
    """The ties of each layer's positions; `TieError`, naming the members, if they cannot be shared."""
    layers: dict[LocalLayer, list[Tie]] = {}
    for tie in ties:
        slot = tie.members[0].slot
        layer = slot.owner
        if any(member.slot.owner is not layer or member.index is None for member in tie.members):
            raise TieError(
                f"{shortened([m.name for m in tie.members], ', ')}: slices can be one with each other, but not with "
                "those of other parameters: share whole parameters, or the slices of each by a pattern of its own"
            )
        if not isinstance(layer, LOCAL_LAYERS):
            raise TieError(
                f"{slot.name!r} is not of a LocallyConnected layer but of a {type(layer).__name__}, of which slices "
                "cannot be one parameter: make it of several parameters, or tie the slices with a penalty"
            )
        layers.setdefault(layer, []).append(tie)
    for layer, own in layers.items():
        places_of(module, layer)
        name = own[0].members[0].slot.name.rpartition(".")[0]
        if has_hooks(layer):
            raise TieError(
                f"the positions of {name!r} cannot be one, as the layer has hooks: remove them first"
            )
        others = shared_with(module, layer)
        if others:
            raise TieError(
                f"the positions of {name!r} cannot be one, as it has a parameter in common with {others[0]!r}"
            )
        if type(layer) not in LOCAL_LAYERS:
            raise TieError(
                f"the positions of {name!r} cannot be one, as it is a {type(layer).__name__}, which may compute "
                "something else than a convolution"
            )
        tied = {tie.members[0].slot.attribute for tie in own}
        apart = [
            attribute
            for attribute, _ in layer.named_parameters(recurse=False)
            if attribute not in tied
        ]
        if apart:
            raise TieError(
                f"{name!r} has a {apart[0]} for each position, too: tie it as well, with the pattern '{name}.*[:]'"
            )
    return layers


def share_positions(
    module: nn.Module, layers: dict[LocalLayer, list[Tie]], averaged: bool, only_equal: bool
) -> None:
    """Put convolutions in the places of layers, with the filters of the first position, or of the mean of all.

    Args:
        module: The module, changed in place.
        layers: What `check_positions` returned.
        averaged: Whether filters are averaged over positions.
        only_equal: Whether layers of which positions differ are left as they are.
    """
    for layer in layers:
        parameters = list(layer.parameters(recurse=False))
        if only_equal and not all(torch.equal(p, p[:1].expand_as(p)) for p in parameters):
            continue
        one = (
            layer.to_conv(average=True)
            if averaged
            else layer.convolution_of(lambda _, p: p[0].clone())
        )
        replace_module(module, layer, one)
