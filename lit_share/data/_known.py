"""Looking up what a user named."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def known(table: Mapping[str, T], **argument: str) -> T:
    """Look a name up in a table.

    Args:
        table: What there is, by name.
        **argument: The argument that holds the name, as the user wrote it.

    Returns:
        The entry.

    Raises:
        ValueError: If there is no such name; the message lists those that there are.

    Example:
        >>> known({"digits": 1, "wine": 2}, dataset="wine")
        2
        >>> known({"digits": 1, "wine": 2}, dataset="whine")
        Traceback (most recent call last):
        ...
        ValueError: dataset="whine" is not known: write one of "digits", "wine"
    """
    [(key, name)] = argument.items()
    if name not in table:
        names = ", ".join(f'"{name}"' for name in table)
        raise ValueError(f'{key}="{name}" is not known: write one of {names}')
    return table[name]
