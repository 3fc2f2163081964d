"""Patterns and names that a user may have meant, where a pattern matches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from lit_share.ties._names import and_more
from lit_share.ties._pattern import Pattern

_SHOWN = 5


def no_match(pattern: Pattern, names: Sequence[str], buffers: Sequence[str]) -> str:
    """Return the message for a pattern that matches no parameter.

    Args:
        pattern: The pattern.
        names: The names of all parameters.
        buffers: The names of all buffers.
    """
    text = f"pattern {pattern.text!r} matches no parameter"
    matched = [name for name in buffers if pattern.match(name) is not None]
    if matched:
        return (
            f"pattern {pattern.text!r} matches buffers only, such as {matched[0]!r}, which are not "
            "trained: name parameters, and share the buffers of their layers with buffers=True"
        )
    close = close_matches(pattern, names)
    if close:
        return f"{text}: did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, names[:_SHOWN])) or "none at all"
    return f"{text}: the module has {shown}" + and_more(len(names) - _SHOWN)


def close_matches(pattern: Pattern, names: Sequence[str]) -> list[str]:
    """Return up to three patterns or names similar to a pattern, the most similar ones first."""
    patterns = _with_other_beginning(pattern, names) or _similar_patterns(pattern, names)
    return patterns[:3] or get_close_matches(pattern.name, names, n=3, cutoff=0.5)


def matches_any(text: str, names: Iterable[str]) -> bool:
    """Whether the pattern matches any of the names."""
    return any(Pattern(text).match(name) is not None for name in names)


def _with_other_beginning(pattern: Pattern, names: Sequence[str]) -> list[str]:
    """Return patterns that match after submodules' names are added at the beginning, or removed."""
    # Users write a model's own names, where it is a child of another module, or the other way
    # round.
    beginnings: dict[str, None] = {}
    for name in names:
        components = name.split(".")
        for i in range(1, len(components)):
            if pattern.match(".".join(components[i:])) is not None:
                beginnings.setdefault(".".join(components[:i]))
                break
    longer = [f"{beginning}.{pattern.text}" for beginning in beginnings]
    components = pattern.text.split(".")
    shorter = [".".join(components[i:]) for i in range(1, len(components) - 1)]
    # A star alone would match anything.
    literal = [text for text in shorter if "*" not in text.split(".")[0]]
    return [*longer, *(text for text in literal if matches_any(text, names))]


def _similar_patterns(pattern: Pattern, names: Sequence[str]) -> list[str]:
    """Return patterns that match, with a similar text before the first or after the last star."""
    # Only as many components of the names are compared as that text has.
    pieces = pattern.name.split("*")
    suffix = pattern.text.removeprefix(pattern.name)
    similar: list[str] = []
    for i in (0, -1):
        literal = pieces[i].strip(".")
        depth = literal.count(".") + 1
        outermost = {0: slice(depth), -1: slice(-depth, None)}[i]
        ends = dict.fromkeys(".".join(name.split(".")[outermost]) for name in names)
        for found in get_close_matches(literal, ends, n=3, cutoff=0.5):
            other = [*pieces]
            other[i] = pieces[i].replace(literal, found)
            similar.append("*".join(other) + suffix)
    return [text for text in dict.fromkeys(similar) if matches_any(text, names)]
