"""The heat map of tied fractions: ties × strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal

# Lightness decreases evenly, so that the scale can be read without colour, too. A fraction of 0 has
# the colour of the background.
_LIGHT_TO_DARK = [[0.0, "#f4f8fb"], [0.5, "#7db4d6"], [1.0, "#003a5d"]]


def tied_heatmap(tied: Mapping[str, Mapping[str, float]], title: str = "") -> go.Figure:
    """Draw the fraction of each tie that is exactly equal after training.

    Args:
        tied: For each strategy, the fraction in [0, 1] by the tie's name.
        title: The figure's title.

    Returns:
        A heat map with a row per tie, in the order of the network, and a column per strategy.

    Example:
        >>> figure = tied_heatmap({"none": {"w": 0.0}, "hard_tie": {"w": 1.0}})
        >>> [list(row) for row in figure.data[0].text]
        [['0 %', '100 %']]
    """
    # A dict keeps the order of the ties in the network, where a set would not.
    ties = list(dict.fromkeys(chain.from_iterable(tied.values())))
    cells = [[fractions.get(tie) for fractions in tied.values()] for tie in ties]
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            x=[literal(strategy) for strategy in tied],
            y=[literal(tie) for tie in ties],
            text=[list(map(_percent, row)) for row in cells],
            texttemplate="%{text}",
            zmin=0.0,
            zmax=1.0,
            colorscale=_LIGHT_TO_DARK,
            xgap=2,
            ygap=2,
            showscale=False,
            hovertemplate="%{y}<br>%{x}: %{text} equal<extra></extra>",
        )
    )
    finish(figure, title=title, height=110 + 34 * len(ties))
    # Without "category", names that are numbers would be placed by their value.
    figure.update_xaxes(type="category", showgrid=False, side="bottom")
    figure.update_yaxes(type="category", showgrid=False, tickfont={"size": 12})
    figure.update_yaxes(autorange="reversed")
    return figure


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return ""
    # Only fractions of exactly 0 and 1 are shown as 0 % and 100 %.
    if 0.0 < fraction < 0.01:
        return literal("<1 %")
    return f"{math.floor(100.0 * fraction)} %"
