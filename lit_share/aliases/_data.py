"""Aliases of a module as plain data, from which another module gets the same aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lit_share.aliases._find import agree, alias_groups, transposed_aliases
from lit_share.aliases._invariant import install_invariant, recorded_buffers
from lit_share.aliases._make import AliasMaker, make_buffer_one
from lit_share.aliases._modules import replace_module
from lit_share.aliases._shareable import check_shareable
from lit_share.ties import (
    TRANSPOSE,
    BufferRef,
    HasPositions,
    Member,
    ParameterRef,
    Tie,
    TieError,
    buffer_refs,
    equal_slice,
    parameter_refs,
    position_count,
    unwrapped,
    unwrapped_name,
)

_Entry = Mapping[str, Any]


def aliases_to_data(module: nn.Module) -> list[dict[str, Any]]:
    """Return the aliases of a module as data for `aliases_from_data`.

    Returns:
        For each aliased parameter or buffer its ``"names"``, with ``.T`` after names of its
        transpose; for each layer whose positions are shared its name as ``"convolution"``.
    """
    groups = [*alias_groups(parameter_refs(module)), *recorded_buffers(module)]
    entries: list[dict[str, Any]] = [{"names": group} for group in groups]
    for name, source in transposed_aliases(module).items():
        entries.append({"names": [source, f"{name}.T"]})
    for name, layer in unwrapped(module).named_modules():
        if position_count(layer):
            entries.append({"convolution": unwrapped_name(name)})
    return entries


@torch.no_grad()
def aliases_from_data(module: nn.Module, entries: Iterable[_Entry]) -> None:
    """Make the aliases of `aliases_to_data` in a module that has the same values, in place.

    Raises:
        TieError: If a name is missing or cannot be shared, or values under shared names differ;
            the module is not changed then.
    """
    entries = list(entries)
    names = [entry["names"] for entry in entries if "names" in entry]
    convolutions = [entry["convolution"] for entry in entries if "convolution" in entry]
    layers = [_layer_with_positions(module, name) for name in convolutions]
    merged = {layer: layer.with_one_position(equal_slice) for layer in layers if layer is not None}
    # Layers are replaced first, because the names may include parameters of the convolutions.
    for layer, convolution in merged.items():
        replace_module(module, layer, convolution)  # type: ignore[arg-type]
    try:
        _join(module, names)
    except TieError:
        for layer, convolution in merged.items():
            replace_module(module, convolution, layer)  # type: ignore[arg-type]
        raise


def _join(module: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    parameters = {ref.name: ref for ref in parameter_refs(module)}
    buffers = {ref.name: ref for ref in buffer_refs(module)}
    buffer_groups: list[list[BufferRef]] = []
    ties: list[Tie] = []
    # All groups are checked before the first is joined, so that an error leaves the module as is.
    for names in groups:
        if all(name in buffers for name in names):
            refs = [buffers[name] for name in names]
            if not all(agree(refs[0].stored, ref.stored) for ref in refs[1:]):
                raise TieError(f"{' and '.join(map(repr, names))} are to be shared, but differ")
            buffer_groups.append(refs)
            continue
        tie = Tie(names[0], tuple(_member(parameters, name) for name in names))
        _check_values(tie)
        if not tie.is_shared:
            ties.append(tie)
    check_shareable(module, ties)
    maker = AliasMaker(module)
    for tie in ties:
        maker.make_one(tie, tie.tensors()[0])
    for refs in buffer_groups:
        make_buffer_one(refs, averaged=False)
    parameter_groups = [[member.ref for member in tie.members] for tie in ties]
    install_invariant(module, [*parameter_groups, *buffer_groups])


def _layer_with_positions(module: nn.Module, name: str) -> HasPositions | None:
    """Return a locally connected layer by name; ``None`` if it became a convolution; else raise."""
    named = {unwrapped_name(own): layer for own, layer in unwrapped(module).named_modules()}
    layer = named.get(name)
    if isinstance(layer, HasPositions) and layer.reason_to_keep_positions() is None:
        return layer
    if layer is None or not position_count(layer):
        raise TieError(f"the module has no locally connected layer {name!r} to be a convolution")
    return None


def _member(refs: Mapping[str, ParameterRef], name: str) -> Member:
    # A parameter may itself be named "T", so the complete name is looked up first.
    ref = refs.get(name)
    if ref is not None:
        return Member(ref)
    ref = refs.get(name.removesuffix(TRANSPOSE.text))
    if ref is None:
        raise TieError(f"the module has no parameter {name!r} to be shared")
    return Member(ref, TRANSPOSE)


def _check_values(tie: Tie) -> None:
    first, *others = tie.tensors()
    for member, other in zip(tie.members[1:], others, strict=True):
        names = f"{tie.members[0].name!r} and {member.name!r} are to be shared"
        if first.shape != other.shape:
            shapes = f"{tuple(first.shape)} and {tuple(other.shape)}"
            raise TieError(f"{names}, but have shapes {shapes}")
        if not agree(first, other):
            raise TieError(f"{names}, but have different values")
