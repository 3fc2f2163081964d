"""The heat map of what became equal: ties × strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal

# Its lightness falls evenly, so that it can be read without colour, too, and nothing tied is the colour of paper.
_LIGHT_TO_DARK = [[0.0, "#f4f8fb"], [0.5, "#7db4d6"], [1.0, "#003a5d"]]


def tied_heatmap(tied: Mapping[str, Mapping[str, float]], title: str = "") -> go.Figure:
    """Draw which fraction of each tie ended up exactly equal.

    Args:
        tied: By strategy, the fraction in [0, 1] by the tie's name.
        title: The figure's title.

    Returns:
        A figure with ties as rows, in the order of the network, and strategies as columns; each cell has its number.

    Example:
        >>> figure = tied_heatmap({"none": {"w": 0.0}, "hard_tie": {"w": 1.0}})
        >>> [list(row) for row in figure.data[0].text]
        [['0 %', '100 %']]
    """
    ties = list(dict.fromkeys(tie for fractions in tied.values() for tie in fractions))
    cells = [[fractions.get(tie) for fractions in tied.values()] for tie in ties]
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            x=[literal(strategy) for strategy in tied],
            y=[literal(tie) for tie in ties],
            text=[["" if cell is None else _percent(cell) for cell in row] for row in cells],
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
    finish(figure, **({"title": literal(title)} if title else {}), height=110 + 34 * len(ties))
    figure.update_yaxes(
        autorange="reversed", type="category", showgrid=False, tickfont={"size": 12}
    )
    figure.update_xaxes(type="category", showgrid=False, side="bottom")
    return figure


def _percent(fraction: float) -> str:
    """So rounded that 0 % is nothing and 100 % is all."""
    return literal("<1 %") if 0.0 < fraction < 0.01 else f"{math.floor(100.0 * fraction)} %"
