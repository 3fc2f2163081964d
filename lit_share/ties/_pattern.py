"""A pattern of the tie language: text, stars, and an optional `.T` or `[:]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

View = Literal["whole", "transposed", "slices"]

_SUFFIXES: dict[str, View] = {".T": "transposed", "[:]": "slices"}


@dataclass(frozen=True)
class Pattern:
    """A pattern of parameter names, in which `*` stands for any text.

    Example:
        >>> Pattern("encoder.*.weight").match("encoder.0.weight")
        ('0',)
        >>> Pattern("decoder.weight.T").view
        'transposed'
    """

    text: str

    @property
    def view(self) -> View:
        """Which view of the parameter is a member: the whole, its transpose, or every slice."""
        matching = (view for suffix, view in _SUFFIXES.items() if self.text.endswith(suffix))
        return next(matching, "whole")

    @property
    def name(self) -> str:
        """The pattern without its suffix, which matches the parameter's name."""
        suffixes = (suffix for suffix in _SUFFIXES if self.text.endswith(suffix))
        return self.text.removesuffix(next(suffixes, ""))

    @property
    def stars(self) -> int:
        """The number of stars."""
        return self.name.count("*")

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return what each star stands for in ``name``; ``None`` if the pattern does not match."""
        # The first stars as long as possible: match the reversed pattern with the reversed name.
        texts = [text[::-1] for text in reversed(self.name.split("*"))]
        found = _shortest_first(texts, name[::-1])
        return None if found is None else tuple(star[::-1] for star in reversed(found))

    def is_ambiguous(self, name: str) -> bool:
        """Whether the stars can stand for different texts in ``name``."""
        # `match` makes the first stars as long as possible, `_shortest_first` as short as possible;
        # only where there is one match do both agree.
        return self.match(name) != _shortest_first(self.name.split("*"), name)

    def fill(self, stars: tuple[str, ...]) -> str:
        """Return the name in which the stars stand for these texts."""
        first, *rest = self.name.split("*")
        return first + "".join(star + text for star, text in zip(stars, rest, strict=True))


def _shortest_first(texts: list[str], name: str) -> tuple[str, ...] | None:
    """Return what stands between these texts in ``name``, the first as short as possible.

    Each text is taken at its first occurrence, which leaves the most to those after it. A regular
    expression would backtrack, which takes exponential time for a few stars.
    """
    first, *rest = texts
    if not rest:
        return () if name == first else None
    if not name.startswith(first):
        return None
    stars: list[str] = []
    at = len(first)
    for text in rest[:-1]:
        found = name.find(text, at)
        if found < 0:
            return None
        stars.append(name[at:found])
        at = found + len(text)
    end = len(name) - len(rest[-1])
    return (*stars, name[at:end]) if at <= end and name.endswith(rest[-1]) else None
