"""Filter the ties that a file records, and check that tied tensors are equal."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._manifest import RecordedTie


def saved_ties(ties: Iterable[Mapping[str, Any]], names: Container[str]) -> list[Mapping[str, Any]]:
    """Return each tie once, without names that are not saved (non-persistent buffers)."""
    saved: list[Mapping[str, Any]] = []
    for tie in ties:
        # Shared positions have no names: loading recognises them by their shapes.
        if "names" not in tie:
            continue
        kept = {"names": [n for n in tie["names"] if n in names or n.removesuffix(".T") in names]}
        if len(kept["names"]) > 1 and kept not in saved:
            saved.append(kept)
    return saved


def check_ties(ties: Iterable[RecordedTie], arrays: Mapping[str, Bits]) -> None:
    """Raise `ValueError` if tied tensors differ."""
    # Each pair is compared once, so that a file cannot cost time by repeating a tie.
    equal: set[tuple[Hashable, Hashable]] = set()
    for tie in ties:
        first, *others = (_array(name, arrays) for name in tie.names)
        for name, other in zip(tie.names[1:], others, strict=True):
            pair = _region(first), _region(other)
            # Views of the same memory are equal without a comparison.
            if pair[0] == pair[1] or pair in equal:
                continue
            if first.dtype != other.dtype or not np.array_equal(first, other):
                raise ValueError(f"{tie.names[0]!r} and {name!r} are tied, but not equal")
            equal.add(pair)


def _array(name: str, arrays: Mapping[str, Bits]) -> Bits:
    if name in arrays:
        return arrays[name]
    transpose: Bits = arrays[name.removesuffix(".T")].T
    return transpose


def _region(array: Bits) -> Hashable:
    return array.__array_interface__["data"], array.shape, array.strides, array.dtype
