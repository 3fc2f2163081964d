"""How strategies look: the same colour, marker and dash in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Okabe and Ito, *Color Universal Design*, 2008: eight colours that colour-blind readers tell apart. Yellow is last, for
# it is pale on white.
OKABE_ITO = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442")
# From −1 to 1, as blue and orange are told apart by all; what is near 0 is the colour of paper.
BLUE_TO_ORANGE = [
    [0.0, "#004a77"],
    [0.25, "#5b9fcb"],
    [0.5, "#f7f7f7"],
    [0.75, "#eda36a"],
    [1.0, "#a63f00"],
]
# Never colour alone: Plotly's name of each marker, and the character that looks like it. Their number has no divisor in
# common with that of the seven colours, so that 63 strategies differ in one or the other.
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
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")


class Style(NamedTuple):
    """How one strategy looks.

    Attributes:
        color: A colour of `OKABE_ITO`.
        symbol: Plotly's name of the marker.
        glyph: The character that looks like the marker, for tables.
        dash: Plotly's name of the dash of lines.
    """

    color: str
    symbol: str
    glyph: str
    dash: str


def styles(names: Iterable[str], baseline: str = "none") -> dict[str, Style]:
    """Give each strategy a colour, a marker and a dash.

    Args:
        names: The strategies, in any order.
        baseline: The strategy that is black.

    Returns:
        The style of each strategy, the baseline first and the others in the order of their names.

    Example:
        >>> {name: style.color for name, style in styles(["soft_tie", "none", "hard_tie"]).items()}
        {'none': '#000000', 'hard_tie': '#0072B2', 'soft_tie': '#D55E00'}
    """
    black, *colors = OKABE_ITO
    symbols = list(_MARKERS.items())
    found: dict[str, Style] = {}
    names = set(names)
    if baseline in names:
        found[baseline] = Style(black, *symbols[0], _DASHES[0])
    for i, name in enumerate(sorted(names - {baseline})):
        found[name] = Style(
            colors[i % len(colors)],
            *symbols[(i + 1) % len(symbols)],
            _DASHES[(i + 1) % len(_DASHES)],
        )
    return found
