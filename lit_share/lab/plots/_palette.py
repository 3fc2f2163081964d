"""The style of each strategy: its colour, marker and dash in all figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

# Okabe and Ito, *Color Universal Design*, 2008: eight colours that colour-blind readers can
# distinguish. Yellow is last because it is pale on white.
OKABE_ITO = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
# A diverging scale from −1 to 1: colour-blind readers can distinguish blue and orange, and values
# near 0 have the colour of the background.
BLUE_TO_ORANGE = [
    [0.0, "#004a77"],
    [0.25, "#5b9fcb"],
    [0.5, "#f7f7f7"],
    [0.75, "#eda36a"],
    [1.0, "#a63f00"],
]
# Plotly's name of each marker, and the character that looks like it. Markers distinguish strategies
# without colour, too. Nine markers and seven colours are coprime, so that 63 strategies differ in
# at least one of the two.
_MARKERS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "cross": "✚",
    "x": "✖",
    "star": "★",
    "hexagon": "⬢",
}
# The order gives those that are often on one page different colours. New names go to the end, so
# that others keep their styles.
_KNOWN = (
    *("soft_tie", "hard_tie", "exact_tie", "unit_tie", "layer_tie", "l2", "l2_sp"),
    *("cluster_tie", "robust_tie", "joint_lasso", "growl", "lasso", "group_lasso", "oscar"),
    *("trace_norm", "depth_tie", "value_tie", "ewc", "follow", "found_groups", "known_groups"),
    *("known_groups_shared", "soft_tie learned", "soft_tie path", "unit_tie learned"),
    *("unit_tie path", "exact_tie learned", "exact_tie path", "correlated_inputs"),
)
_STYLES = 63
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")


class Style(NamedTuple):
    """The style of a strategy.

    Attributes:
        color: A colour of `OKABE_ITO`.
        symbol: Plotly's name of the marker.
        glyph: The character that looks like the marker, for tables.
        dash: Plotly's name of the line's dash.
    """

    color: str
    symbol: str
    glyph: str
    dash: str


def styles(names: Iterable[str], baseline: str = "none") -> dict[str, Style]:
    """Assign a colour, a marker and a dash to each strategy, the same on all pages.

    They depend on the strategy's name alone: `none` is black, those of the library have styles of
    their own, and other names have one by a checksum. Two other names of one page that have the
    same checksum, which is rare, are told apart by the next free style.

    Args:
        names: The strategies, in any order.
        baseline: The strategy that comes first.

    Returns:
        The style of each strategy: the baseline first, the others sorted by name.

    Example:
        >>> {name: style.color for name, style in styles(["soft_tie", "none", "hard_tie"]).items()}
        {'none': '#000000', 'hard_tie': '#D55E00', 'soft_tie': '#0072B2'}
    """
    names = set(names)
    order = sorted(names, key=lambda name: (name != baseline, name))
    slots = {name: _KNOWN.index(name) for name in order if name in _KNOWN}
    free = [*range(len(_KNOWN), _STYLES)]
    for name in sorted(names - {"none", *slots}):
        first = crc32(name.encode(errors="backslashreplace")) % len(free)
        candidates = [*free[first:], *free[:first], *range(len(_KNOWN))]
        taken = {*slots.values()}
        slots[name] = next((slot for slot in candidates if slot not in taken), candidates[0])
    return {name: _style(slots.get(name)) for name in order}


def _style(slot: int | None) -> Style:
    """Return a style by its number; `None` for that of `none`."""
    black, *colors = OKABE_ITO
    symbols = list(_MARKERS.items())
    if slot is None:
        return Style(black, *symbols[0], _DASHES[0])
    # The first marker and dash are those of `none`, so the others start from the second.
    symbol, glyph = symbols[(slot + 1) % len(symbols)]
    return Style(colors[slot % len(colors)], symbol, glyph, _DASHES[(slot + 1) % len(_DASHES)])
