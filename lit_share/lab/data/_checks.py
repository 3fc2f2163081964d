"""Checks of arguments, with messages that name the user's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lit_share.lab.data._sources import Source

T = TypeVar("T")


def known(table: Mapping[str, T], **argument: str) -> T:
    """Look up the name that is the value of the keyword argument.

    Raises:
        ValueError: If the table has no such name; the message lists its names.

    Example:
        >>> known({"digits": 1, "wine": 2}, dataset="wine")
        2
        >>> known({"digits": 1, "wine": 2}, dataset="whine")
        Traceback (most recent call last):
        ...
        ValueError: dataset="whine" is not known: write one of "digits", "wine"
    """
    # The keyword is the user's argument, which the message has to name.
    [(key, name)] = argument.items()
    if name not in table:
        names = ", ".join(f'"{name}"' for name in table)
        raise ValueError(f'{key}="{name}" is not known: write one of {names}')
    return table[name]


def check_sizes(
    sizes: Mapping[str, int], batch_size: int, seed: int, dataset: str, source: Source
) -> None:
    """Raise `ValueError` if a number is out of range, or a data set has too few examples.

    Sizes are those of disjoint parts, by the names of the user's arguments.
    """
    for argument, count in {**sizes, "batch_size": batch_size}.items():
        if count < 1:
            raise ValueError(f"{argument}={count} must be at least 1")
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    # The message shows the sum, because any of its terms can be the number to change.
    needed = sum(sizes.values())
    if needed > source.examples:
        raise ValueError(
            f"{' + '.join(sizes)} = {' + '.join(map(str, sizes.values()))} = {needed}, but "
            f'"{dataset}" has {source.examples} examples: make one of them smaller'
        )
