"""Suffixes of patterns: which members a parameter gives, in a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod


def _no_problem(_: tuple[int, ...]) -> str:
    return ""


@dataclass(frozen=True)
class Suffix:
    """The end of a pattern, which says what members a parameter gives.

    Attributes:
        text: The end of the pattern.
        verb: The action on a parameter, for messages.
        members: The members, for messages.
        problem: Return why a shape does not fit, as the end of a sentence that begins with pattern,
            verb and parameter; an empty text if it fits.
        transposes: Whether the member is the transpose of the parameter.
        slices: Whether there is a member for each index along dim 0.
        compares_numbers: Whether the numbers of the only member are compared with each other.
        takes_shards: Whether the parameter may be sharded over ranks.
    """

    text: str
    verb: str
    members: str
    problem: Callable[[tuple[int, ...]], str] = _no_problem
    transposes: bool = False
    slices: bool = False
    compares_numbers: bool = False
    takes_shards: bool = True

    def of_member(self, index: int | None) -> str:
        """Return the end of a member's name: the index of a slice takes the place of the colon."""
        return self.text.replace(":", str(index))


def suffix_of(text: str) -> Suffix:
    """Return the suffix that a pattern ends in; `WHOLE` if it has none."""
    return next((suffix for suffix in SUFFIXES if text.endswith(suffix.text)), WHOLE)


def known_brackets() -> str:
    """Return the suffixes in brackets with their members, for messages."""
    return " and ".join(f"{s.text} ({s.members})" for s in SUFFIXES if s.text.endswith("]"))


def _unless_matrix(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return ""
    return f" of shape {shape}: .T is for matrices, exclude others"


def _unless_sliced(shape: tuple[int, ...]) -> str:
    if not shape:
        return ", which is a single number: leave out [:]"
    if shape[0] == 0:
        return ", which has no slices: leave out [:]"
    return ""


def _unless_several(shape: tuple[int, ...]) -> str:
    if prod(shape) > 1:
        return ""
    return f", which has {prod(shape)}: exclude it"


WHOLE = Suffix("", "names", "the parameter")
TRANSPOSE = Suffix(".T", "transposes", "the transpose", _unless_matrix, transposes=True)

SUFFIXES = (
    TRANSPOSE,
    # A rank would hold some of the slices or numbers of a sharded parameter only.
    Suffix(
        text="[:]",
        verb="slices",
        members="all slices along dim 0",
        problem=_unless_sliced,
        slices=True,
        takes_shards=False,
    ),
    Suffix(
        text="[...]",
        verb="compares the numbers of",
        members="all numbers",
        problem=_unless_several,
        compares_numbers=True,
        takes_shards=False,
    ),
)
