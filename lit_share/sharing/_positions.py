"""Sharing the positions of locally connected layers, which become convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_share.aliases import has_hooks, parents_of, replace_module, shared_with
from lit_share.functional import mean
from lit_share.ties import HasPositions, Tie, TieError, shortened


def check_positions(module: nn.Module, ties: Sequence[Tie]) -> list[HasPositions]:
    """Return the layers whose positions are tied; raise `TieError` if these cannot be shared."""
    layers: dict[HasPositions, list[Tie]] = {}
    for tie in ties:
        ref = tie.members[0].ref
        layer: nn.Module = ref.owner
        # A convolution takes its filter from a single parameter.
        if any(member.ref.owner is not layer or member.index is None for member in tie.members):
            names = shortened([member.name for member in tie.members], ", ")
            raise TieError(
                f"{names}: slices can be shared with each other, but not with slices of other "
                "parameters: share whole parameters, or give each parameter's slices a pattern"
            )
        if not isinstance(layer, HasPositions):
            raise TieError(
                f"{ref.name!r} belongs to a {type(layer).__name__}, not to a LocallyConnected "
                "layer, so its slices cannot be shared: split it into several parameters, or tie "
                "the slices with a penalty"
            )
        layers.setdefault(layer, []).append(tie)
    for found, own in layers.items():
        assert isinstance(found, nn.Module)
        _check_layer(module, found, own)
    return list(layers)


def share_positions(
    module: nn.Module, layers: Sequence[HasPositions], averaged: bool, only_equal: bool
) -> None:
    """Replace layers by convolutions with the first filter, or the mean filter if ``averaged``.

    With ``only_equal``, layers whose positions differ are skipped.
    """
    for layer in layers:
        assert isinstance(layer, nn.Module)
        parameters = list(layer.parameters(recurse=False))
        if only_equal and not all(torch.equal(p, p[:1].expand_as(p)) for p in parameters):
            continue
        if averaged:
            merged = layer.with_one_position(lambda _, p: mean(p.unbind()))
        else:
            merged = layer.with_one_position(lambda _, p: p[0].clone())
        replace_module(module, layer, merged)


def _check_layer(module: nn.Module, layer: nn.Module, ties: Sequence[Tie]) -> None:
    # Raises if the layer cannot be replaced.
    parents_of(module, layer)
    name = ties[0].members[0].ref.name.rpartition(".")[0]
    others = shared_with(module, layer)
    assert isinstance(layer, HasPositions)
    reason = layer.reason_to_keep_positions()
    if has_hooks(layer):
        reason = "as the layer has hooks: remove them first"
    elif others:
        reason = f"as it has a parameter in common with {others[0]!r}"
    if reason is not None:
        raise TieError(f"the positions of {name!r} cannot be shared, {reason}")
    # A convolution has the same bias at all positions, too.
    tied = {tie.members[0].ref.attribute for tie in ties}
    for attribute, _ in layer.named_parameters(recurse=False):
        if attribute not in tied:
            raise TieError(
                f"{name!r} has a {attribute} for each position, too: tie it as well, with the "
                f"pattern '{name}.*[:]'"
            )
