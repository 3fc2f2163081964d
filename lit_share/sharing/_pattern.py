"""One pattern of the tie language: text, stars, and an optional `.T` or `[:]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["whole", "transposed", "slices"]

_SUFFIXES: dict[str, Part] = {".T": "transposed", "[:]": "slices"}


@dataclass(frozen=True)
class Pattern:
    """A pattern of parameter names, in which `*` stands for any text.

    Example:
        >>> Pattern("encoder.*.weight").match("encoder.0.weight")
        ('0',)
        >>> Pattern("decoder.weight.T").part
        'transposed'
    """

    text: str

    @property
    def part(self) -> Part:
        """Which part of the parameter is a member: all of it, its transpose, or every slice along dim 0."""
        return next(
            (part for suffix, part in _SUFFIXES.items() if self.text.endswith(suffix)), "whole"
        )

    @property
    def name(self) -> str:
        """The pattern of the parameter's name alone."""
        return next(
            (self.text.removesuffix(s) for s in _SUFFIXES if self.text.endswith(s)), self.text
        )

    @property
    def stars(self) -> int:
        """The number of stars."""
        return self.name.count("*")

    def match(self, name: str) -> tuple[str, ...] | None:
        """What each star stands for in ``name``, or ``None`` where the pattern does not match."""
        # The first stars as long as can be: the mirror image of the match of the mirrored name.
        texts = [text[::-1] for text in reversed(self.name.split("*"))]
        found = _shortest_first(texts, name[::-1])
        return None if found is None else tuple(star[::-1] for star in reversed(found))

    def is_ambiguous(self, name: str) -> bool:
        """Whether the stars can stand for different texts in ``name``."""
        # One match makes the first stars as long as can be, the other as short: only a unique match is both.
        return self.match(name) != _shortest_first(self.name.split("*"), name)

    def fill(self, stars: tuple[str, ...]) -> str:
        """The name in which the stars stand for these texts."""
        first, *rest = self.name.split("*")
        return first + "".join(star + text for star, text in zip(stars, rest, strict=True))


def _shortest_first(texts: list[str], name: str) -> tuple[str, ...] | None:
    """What stands between these texts in ``name``, the first as short as can be; ``None`` if they are not in it.

    Each text is taken where it comes first, which leaves the most to those after it. A regular expression would try
    all other places, too, which takes forever for a few stars.
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
