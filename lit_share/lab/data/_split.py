"""Cutting a data set into parts that share no example."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lit_share.lab.data._arrays import Ints


def split(labels: Ints, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[np.intp]]:
    """Cut a data set into disjoint parts that all have its mixture of classes.

    The examples are put into one random order of which every stretch has the mixture, and the parts are cut
    from it one after the other. So a part keeps its examples when a later part changes its size, and when it
    grows itself it keeps those that it had, which is what a learning curve wants.

    Args:
        labels: Classes of the examples, shape `(examples,)`.
        sizes: Size of each part by name, in the order of cutting. They may leave examples over.
        seed: Draws the order, at least 0.

    Returns:
        Places of each part's examples, by name.

    Raises:
        ValueError: If the parts need more examples than there are.

    Example:
        >>> parts = split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), {"test": 4, "train": 2}, seed=0)
        >>> {name: sorted(int(place) for place in places) for name, places in parts.items()}
        {'test': [0, 2, 4, 7], 'train': [1, 6]}
    """
    total = sum(sizes.values())
    if total > len(labels):
        raise ValueError(
            f"the parts {dict(sizes)} need {total} examples, but there are {len(labels)}"
        )
    rng = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Spread evenly over [0, 1), a class has its share of examples in every stretch. The random start
        # keeps the first classes from always coming first.
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(position)
    cuts = np.cumsum([0, *sizes.values()])
    return {
        name: order[start:stop] for name, start, stop in zip(sizes, cuts, cuts[1:], strict=False)
    }
