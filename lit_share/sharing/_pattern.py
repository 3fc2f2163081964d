"""One pattern of the tie language: text, stars, and an optional `.T` or `[:]`."""

from __future__ import annotations

import re
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
        return next((part for suffix, part in _SUFFIXES.items() if self.text.endswith(suffix)), "whole")

    @property
    def name(self) -> str:
        """The pattern of the parameter's name alone."""
        return next((self.text.removesuffix(s) for s in _SUFFIXES if self.text.endswith(s)), self.text)

    @property
    def stars(self) -> int:
        """The number of stars."""
        return self.name.count("*")

    def match(self, name: str) -> tuple[str, ...] | None:
        """What each star stands for in ``name``, or ``None`` where the pattern does not match."""
        return self._match(name, "(.*)")

    def is_ambiguous(self, name: str) -> bool:
        """Whether the stars can stand for different texts in ``name``."""
        # One match makes the first stars as long as can be, the other as short: only a unique match is both.
        return self._match(name, "(.*)") != self._match(name, "(.*?)")

    def fill(self, stars: tuple[str, ...]) -> str:
        """The name in which the stars stand for these texts."""
        texts = iter(stars)
        return re.sub(r"\*", lambda _: next(texts), self.name)

    def _match(self, name: str, star: str) -> tuple[str, ...] | None:
        found = re.fullmatch(star.join(map(re.escape, self.name.split("*"))), name)
        return found.groups() if found else None
