"""Stratified splits."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lit_share.lab.data._sources import Ints


def split(labels: Ints, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.intp]]:
    """Split a data set into disjoint parts, stratified by class.

    Args:
        labels: Classes of the examples, shape `(examples,)`.
        sizes: Size of each part by name, in the order of slicing; they may leave examples unused.
        seed: Seed of the order, at least 0.

    Returns:
        Indices of each part's examples, by name.

    Raises:
        ValueError: If the parts need more examples than the data set has.

    Example:
        >>> parts = split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), {"test": 4, "train": 2}, seed=0)
        >>> {name: sorted(indices.tolist()) for name, indices in parts.items()}
        {'test': [0, 2, 4, 7], 'train': [1, 6]}
    """
    total = sum(sizes.values())
    if total > len(labels):
        raise ValueError(
            f"the parts {dict(sizes)} need {total} examples, but there are {len(labels)}"
        )
    rng = np.random.default_rng(seed)
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        # Each class is spread evenly over [0, 1), so that every slice of the sorted keys has the
        # class's fraction of examples. The random offset keeps low labels from always coming first.
        keys[of_class] = (np.arange(len(of_class)) + rng.random()) / len(of_class)
    order = np.argsort(keys)
    # The parts are consecutive slices of one order, as learning curves need it: a part keeps its
    # examples if it grows, or if a later part changes its size.
    ends = np.cumsum([*sizes.values()])
    return {
        name: order[end - size : end] for (name, size), end in zip(sizes.items(), ends, strict=True)
    }
