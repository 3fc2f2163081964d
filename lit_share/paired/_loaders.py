"""Which child a loader belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_share.lightnings import combined_loader

if TYPE_CHECKING:
    from lightning.pytorch.utilities import CombinedLoader


@dataclass(frozen=True)
class Owner:
    """The child that has a loader."""

    name: str
    index: int  # of the loader, among those of the child
    has_several: bool  # whether the child has several loaders


def find_owners(loaders: Mapping[str, Any]) -> list[Owner]:
    """Return the child of each loader, in the order in which Lightning runs them.

    Args:
        loaders: By child; the loaders of a child may be nested in lists and dicts.
    """
    owners: list[Owner] = []
    for name, own in loaders.items():
        n = len(combined_loader(own, "sequential").flattened)
        owners += [Owner(name, index, n > 1) for index in range(n)]
    return owners


def comes_by_name(loader: CombinedLoader) -> bool:
    """Return whether a batch of the loader is a dict with each child's batch."""
    # Except in training, Lightning runs loaders one after the other, and passes the batch with
    # the loader's index, but without its key in the dict of loaders.
    return loader._mode != "sequential" or not isinstance(loader.iterables, Mapping)
