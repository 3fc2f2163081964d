"""Separating aliases: giving names of one parameter or buffer tensors of their own again."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.aliases._data import aliases_to_data
from lit_share.aliases._find import Ref, agree
from lit_share.aliases._invariant import forget_alias, install_invariant
from lit_share.ties import (
    TRANSPOSE,
    BufferRef,
    ParameterRef,
    TieError,
    buffer_refs,
    by_unwrapped_name,
    parameter_refs,
)

_Entry = Mapping[str, Any]


def separate_parameters(sides: Iterable[tuple[Hashable, ParameterRef]]) -> None:
    """Give each side its own copy of a parameter that references of several sides have.

    Args:
        sides: References, each with its side; the first side of a parameter keeps it.
    """
    copies: dict[tuple[nn.Parameter, Hashable], nn.Parameter] = {}
    first: dict[nn.Parameter, Hashable] = {}
    done: set[tuple[int, str]] = set()
    for side, ref in sides:
        parameter = ref.parameter
        # A module with several names has several references to the same entry.
        if (id(ref.owner), ref.attribute) in done:
            continue
        done.add((id(ref.owner), ref.attribute))
        forget_alias(ref)
        # A clone of a transpose would keep its strides, which are not those of a fresh parameter.
        if ref.stored is None:
            value = ref.tensor.clone(memory_format=torch.contiguous_format)
            ref.put(nn.Parameter(value, parameter.requires_grad))
        elif first.setdefault(parameter, side) != side:
            if (parameter, side) not in copies:
                value = parameter.detach().clone()
                copies[parameter, side] = nn.Parameter(value, parameter.requires_grad)
            ref.put(copies[parameter, side])


def separate_buffers(refs: Iterable[BufferRef]) -> None:
    """Give each reference its own copy of a buffer, apart from the first reference to it."""
    seen: set[int] = set()
    for buffer in refs:
        forget_alias(buffer)
        if id(buffer.stored) in seen:
            buffer.put(buffer.stored.clone())
        seen.add(id(buffer.stored))


@torch.no_grad()
def keep_aliases(module: nn.Module, entries: Iterable[_Entry], names: Collection[str]) -> bool:
    """Separate the aliases of ``names`` that are not among ``entries``, in place.

    Args:
        module: The module, which has no optimizer yet.
        entries: The aliases to keep, from `aliases_to_data`.
        names: Names of parameters and buffers; aliases that none of them is among are kept.

    Returns:
        Whether anything was separated.

    Raises:
        TieError: If positions of a layer are shared that ``entries`` does not name, as a
            convolution cannot become the layer again; the module is not changed then.
    """
    entries, present = list(entries), aliases_to_data(module)
    asked = set(names)
    kept = {entry["convolution"] for entry in entries if "convolution" in entry}
    # Everything is checked before anything changes, so that an error leaves the module as it is.
    for entry in present:
        layer = entry.get("convolution")
        own_layer = any(name.rpartition(".")[0] == layer for name in asked)
        if layer is not None and layer not in kept and own_layer:
            raise TieError(
                f"{layer!r} is a convolution now, which cannot become a locally "
                "connected layer again"
            )
    parameters = {ref.name: ref for ref in parameter_refs(module)}
    buffers = {ref.name: ref for ref in buffer_refs(module)}
    # Names of one side have one tensor afterwards.
    side: dict[str, str] = {}
    for group in _names(entries, parameters):
        side.update(dict.fromkeys(group, side.get(group[0], group[0])))
    changed: dict[str, None] = {}
    for group in _names(present, parameters):
        if not asked.isdisjoint(group) and len({side.get(name, name) for name in group}) > 1:
            changed.update(dict.fromkeys(group))
    own = [(side.get(name, name), name) for name in changed]
    separate_parameters([(key, parameters[name]) for key, name in own if name in parameters])
    separate_buffers([buffers[name] for _, name in own if name in buffers])
    # Of a group that was separated, some names may stay aliases.
    stay: dict[str, list[Ref]] = {}
    for key, name in own:
        ref = parameters.get(name) or buffers[name]
        first = stay.setdefault(key, [ref])[0]
        if ref is not first:
            stay[key].append(ref)
            if isinstance(ref, BufferRef):
                ref.put(first.stored)  # type: ignore[arg-type]
    install_invariant(module, [refs for refs in stay.values() if len(refs) > 1])
    return bool(changed)


def aliases_that_agree(module: nn.Module, state: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return the aliases of a module as far as they have the same values in its state dict.

    Args:
        module: The module.
        state: A state dict of it, possibly of a time when fewer parameters were shared.
    """
    loaded = by_unwrapped_name(state)
    parameters = {ref.name for ref in parameter_refs(module)}
    entries: list[dict[str, Any]] = []
    for entry in aliases_to_data(module):
        clusters: list[tuple[Tensor, list[str]]] = []
        for name in entry.get("names", []):
            plain = _plain(name, parameters)
            # A state dict may lack names, as with `strict=False`.
            if plain not in loaded:
                continue
            value = loaded[plain]
            if plain != name:
                value = value.T
            same = [cluster for known, cluster in clusters if agree(known, value)]
            if same:
                same[0].append(name)
            else:
                clusters.append((value, [name]))
        entries += [{"names": cluster} for _, cluster in clusters if len(cluster) > 1]
    return entries


def _names(entries: Iterable[_Entry], parameters: Collection[str]) -> list[list[str]]:
    """Return the names of each entry, without the ``.T`` of transposes."""
    return [[_plain(name, parameters) for name in e["names"]] for e in entries if "names" in e]


def _plain(name: str, parameters: Collection[str]) -> str:
    # A parameter may itself be named "T".
    return name if name in parameters else name.removesuffix(TRANSPOSE.text)
