"""The style of each strategy: its colour, marker and dash in all figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
    """Assign a colour, a marker and a dash to each strategy.

    Args:
        names: The strategies, in any order.
        baseline: The strategy that is drawn in black.

    Returns:
        The style of each strategy: the baseline first, the others sorted by name.

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
    # The first marker and dash belong to the baseline, so the others start from the second.
    for i, name in enumerate(sorted(names - {baseline})):
        color = colors[i % len(colors)]
        symbol, glyph = symbols[(i + 1) % len(symbols)]
        found[name] = Style(color, symbol, glyph, _DASHES[(i + 1) % len(_DASHES)])
    return found
