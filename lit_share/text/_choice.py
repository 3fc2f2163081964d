"""Check an argument that must be one of a few names."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(name: str, value: object, known: Any) -> None:
    """Raise `ValueError` if ``value`` is not an option of ``known``, a `Literal` type."""
    if value not in get_args(known):
        names = ", ".join(map(repr, get_args(known)))
        raise ValueError(f"unknown {name} {value!r}: write one of {names}")
