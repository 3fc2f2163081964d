"""Checking that tensors which are said to be one parameter are equal."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lit_share.sharing.compact._bits import Bits
from lit_share.sharing.compact._manifest import RecordedTie


def saved_ties(ties: Iterable[Mapping[str, Any]], names: Container[str]) -> list[Mapping[str, Any]]:
    """The ties without places that are not saved, as buffers that are not persistent, and each once."""
    saved: list[Mapping[str, Any]] = []
    for tie in (tie for tie in ties if "names" in tie):  # shared positions are told by shapes
        places = [
            place for place in tie["names"] if place in names or place.removesuffix(".T") in names
        ]
        kept = {**tie, "names": places}
        if len(places) > 1 and kept not in saved:
            saved.append(kept)
    return saved


def check_ties(ties: Iterable[RecordedTie], arrays: Mapping[str, Bits]) -> None:
    """Raise `ValueError` if places of a tie differ in rows that they share."""
    equal: set[tuple[Hashable, Hashable, tuple[int, ...]]] = (
        set()
    )  # that a file repeats a tie must not take time
    for tie in ties:
        first, *others = (_place(place, arrays) for place in tie.names)
        for place, other in zip(tie.names[1:], others, strict=True):
            compared = (_region(first), _region(other), tie.apart or ())
            if compared in equal:
                continue
            if (
                first.shape != other.shape
                or first.dtype != other.dtype
                or not _equal(first, other, tie.apart or ())
            ):
                raise ValueError(f"{tie.names[0]!r} and {place!r} are tied, but not equal")
            equal.add(compared)


def _place(place: str, arrays: Mapping[str, Bits]) -> Bits:
    return arrays[place] if place in arrays else arrays[place.removesuffix(".T")].T


def _region(array: Bits) -> Hashable:
    """What two views of the same numbers have in common."""
    return array.__array_interface__["data"], array.shape, array.strides, array.dtype


def _equal(first: Bits, other: Bits, apart: Sequence[int]) -> bool:
    if _region(first) == _region(other):
        return True
    if not apart:
        return np.array_equal(first, other)
    shared = np.ones(len(first), dtype=bool)
    shared[list(apart)] = False
    return np.array_equal(first[shared], other[shared])
