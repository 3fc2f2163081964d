"""Filter the ties that a file records, and check that tied tensors are equal."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._manifest import RecordedTie

# The name of a tensor, and whether its transpose is meant.
_Node = tuple[str, bool]


def saved_ties(ties: Iterable[Mapping[str, Any]], names: Container[str]) -> list[Mapping[str, Any]]:
    """Return each tie once, without names that are not saved (non-persistent buffers)."""
    saved: dict[tuple[str, ...], None] = {}
    for tie in ties:
        # Shared positions have no names: loading recognises them by their shapes.
        if "names" not in tie:
            continue
        kept = tuple(
            n for n in dict.fromkeys(tie["names"]) if n in names or n.removesuffix(".T") in names
        )
        if len(kept) > 1:
            saved[kept] = None
    return [{"names": [*kept]} for kept in saved]


def check_ties(ties: Iterable[RecordedTie], arrays: Mapping[str, Bits]) -> list[RecordedTie]:
    """Raise `ValueError` if tied tensors differ.

    Returns:
        The ties without those that follow from earlier ones: fewer than there are tensors.
    """
    # Equality is transitive, so there are fewer comparisons than tensors, whatever a file says.
    known = _Classes()
    needed = []
    for tie in ties:
        first, *others = (_node(name, arrays) for name in tie.names)
        new = [node for node in others if known.join(first, node)]
        for node in new:
            one, other = (_array(arrays, each) for each in (first, node))
            # Views of the same memory are equal without a comparison.
            if _region(one) == _region(other):
                continue
            if one.dtype != other.dtype or not np.array_equal(one, other):
                name = tie.names[1 + others.index(node)]
                raise ValueError(f"{tie.names[0]!r} and {name!r} are tied, but not equal")
        if new:
            needed.append(tie)
    return needed


class _Classes:
    """Tensors in classes of equal ones, each of which knows whether it is turned.

    Source:
        Tarjan, *Efficiency of a Good But Not Linear Set Union Algorithm*, 1975, with a sign for
        each link.
    """

    def __init__(self) -> None:
        self._parents: dict[str, _Node] = {}
        # The roots whose matrices equal their own transposes.
        self._symmetric: set[str] = set()

    def join(self, one: _Node, other: _Node) -> bool:
        """Say that two are equal; return whether that was unknown."""
        (root, turned), (other_root, other_turned) = self._root(one), self._root(other)
        if root != other_root:
            self._parents[other_root] = root, turned != other_turned
            if other_root in self._symmetric:
                self._symmetric.add(root)
            return True
        if turned == other_turned or root in self._symmetric:
            return False
        self._symmetric.add(root)
        return True

    def _root(self, node: _Node) -> _Node:
        name, turned = node
        path = []
        while name in self._parents:
            path.append((name, turned))
            name, link = self._parents[name]
            turned ^= link
        for passed, was_turned in path:
            self._parents[passed] = name, was_turned != turned
        return name, turned


def _node(name: str, arrays: Mapping[str, Bits]) -> _Node:
    # A parameter may itself be named T, so the exact name has priority.
    if name in arrays:
        return name, False
    return name.removesuffix(".T"), True


def _array(arrays: Mapping[str, Bits], node: _Node) -> Bits:
    name, turned = node
    return arrays[name].T if turned else arrays[name]


def _region(array: Bits) -> Hashable:
    return array.__array_interface__["data"], array.shape, array.strides, array.dtype
