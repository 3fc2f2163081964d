"""A pattern of the tie language: text, stars, and an optional `.T`, `[:]` or `[...]`."""

from __future__ import annotations

from dataclasses import dataclass

from lit_share.ties._suffix import Suffix, suffix_of


@dataclass(frozen=True)
class Pattern:
    """A pattern of parameter names, in which `*` stands for any text.

    Example:
        >>> Pattern("encoder.*.weight").match("encoder.0.weight")
        ('0',)
        >>> Pattern("decoder.weight.T").suffix.transposes
        True
    """

    text: str

    @property
    def suffix(self) -> Suffix:
        """The end of the pattern, which says what members a parameter gives."""
        return suffix_of(self.text)

    @property
    def name(self) -> str:
        """The pattern without its suffix, to be matched with names of parameters."""
        return self.text.removesuffix(self.suffix.text)

    @property
    def stars(self) -> int:
        """The number of stars."""
        return self.name.count("*")

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return the text that each star stands for; ``None`` if the pattern does not match."""
        # Matching the reversed pattern with the reversed name makes the last stars as short, and so
        # the first ones as long as possible.
        texts = [text[::-1] for text in reversed(self.name.split("*"))]
        found = _shortest_first(texts, name[::-1])
        if found is None:
            return None
        return tuple(star[::-1] for star in reversed(found))

    def is_ambiguous(self, name: str) -> bool:
        """Whether the stars can stand for different texts in ``name``."""
        # `match` makes the first stars as long as possible, `_shortest_first` as short as possible:
        # they agree only if there is a single match.
        return self.match(name) != _shortest_first(self.name.split("*"), name)

    def fill(self, stars: tuple[str, ...]) -> str:
        """Return the name in which the stars stand for these texts."""
        first, *rest = self.name.split("*")
        return first + "".join(star + text for star, text in zip(stars, rest, strict=True))


def _shortest_first(texts: list[str], name: str) -> tuple[str, ...] | None:
    """Return the text that each star matches in ``name``, or ``None`` if ``name`` does not match.

    The ``texts`` are those between the stars. Earlier stars match as little as possible.
    """
    # Each text is taken at its first occurrence, which leaves the most to the texts after it. A
    # regular expression would backtrack, which takes exponential time for a few stars.
    first, *rest = texts
    if not rest:
        return () if name == first else None
    if not name.startswith(first):
        return None
    stars: list[str] = []
    begin = len(first)
    for text in rest[:-1]:
        end = name.find(text, begin)
        if end < 0:
            return None
        stars.append(name[begin:end])
        begin = end + len(text)
    # The last text has to end the name, wherever it occurs before.
    end = len(name) - len(rest[-1])
    if begin > end or not name.endswith(rest[-1]):
        return None
    return (*stars, name[begin:end])
