"""Finding the aliases of a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lit_share.ties import BufferRef, ParameterRef, is_dtensor, parameter_refs

Ref = ParameterRef | BufferRef


def alias_groups(refs: Iterable[Ref]) -> list[list[str]]:
    """Return the names of each parameter or buffer that has several names."""
    names: dict[int, list[str]] = defaultdict(list)
    for ref in refs:
        if ref.stored is not None:
            names[id(ref.stored)].append(ref.name)
    return [group for group in names.values() if len(group) > 1]


def transposed_aliases(module: nn.Module) -> dict[str, str]:
    """Return, by the name of each transposed parameter, the name of its stored source."""
    refs = list(parameter_refs(module))
    # A module may have several names; its first is used, as in `named_parameters`.
    first: dict[tuple[int, str], str] = {}
    for ref in refs:
        first.setdefault((id(ref.owner), ref.attribute), ref.name)
    sources = {ref.name: ref.source for ref in refs}
    return {
        name: first[id(source.owner), source.attribute]
        for name, source in sources.items()
        if source is not None
    }


def agree(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors have equal metadata and values, where NaN equals NaN."""
    if is_dtensor(one) and is_dtensor(two):
        # Shards are compared without communication: equal placements give each rank equal slices.
        alike = one.device_mesh == two.device_mesh and one.placements == two.placements
        return alike and agree(one.to_local(), two.to_local())
    if one.shape != two.shape or one.dtype != two.dtype or one.device != two.device:
        return False
    # Tensors on the meta device have no values that could differ.
    if one.is_meta or one is two:
        return True
    if is_dtensor(one) or is_dtensor(two):
        return False
    # `torch.equal` would call members different that have diverged to NaN together.
    return torch.allclose(one, two, 0.0, 0.0, equal_nan=True)
