"""The path of strengths that one run has walked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._layout import finish, literal
from lit_share.lab.plots._palette import OKABE_ITO, Style
from lit_share.lab.plots._strength import _positions, _ticks


class KnotPoint(NamedTuple):
    """What was measured at a knot of a path.

    Attributes:
        strength: The strength, ≥ 0.
        score: The score on validation data.
        error: Its standard error; `None` if unknown.
        distance: The relative distance of the members; `None` without ties of several members.
        tied: The fraction of elements in which all members are equal; `None` likewise.
    """

    strength: float
    score: float
    error: float | None = None
    distance: float | None = None
    tied: float | None = None


def knot_path(
    knots: Sequence[KnotPoint], chosen: int, style: Style, metric: str, title: str = ""
) -> go.Figure:
    """Draw the score of each knot, and how equal the members were.

    Args:
        knots: The knots of one run, by rising strength.
        chosen: The index of the chosen knot.
        style: The style of the strategy.
        metric: The name of the score.
        title: The figure's title.

    Returns:
        The figure: scores with bars of one standard error, the chosen knot filled; below them the
        distance between members and the fraction that is equal, if there are ties.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> knots = [KnotPoint(0.0, 0.8, 0.02), KnotPoint(0.1, 0.9, 0.01)]
        >>> figure = knot_path(knots, 1, styles(["soft_tie"])["soft_tie"], "acc")
        >>> list(figure.data[0].x), list(figure.data[0].marker.symbol)
        ([0.01, 0.1], ['square-open', 'square'])
    """
    tied = [knot for knot in knots if knot.distance is not None]
    rows = 1 + bool(tied)
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.06)
    positions = _positions([knot.strength for knot in knots])
    # As in the figure of sweeps, what is filled was chosen.
    symbols = [f"{style.symbol}-open"] * len(knots)
    symbols[chosen] = style.symbol
    texts = [""] * len(knots)
    texts[chosen] = ", chosen"
    figure.add_scatter(
        x=[positions[knot.strength] for knot in knots],
        y=[knot.score for knot in knots],
        error_y={"array": [knot.error or 0.0 for knot in knots], "thickness": 1.2, "width": 4},
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={"color": style.color, "symbol": symbols, "size": 10},
        text=texts,
        hovertemplate="%{y:.4g}%{text}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    finish(figure, title=title, height=320 + 160 * bool(tied), hovermode="x unified")
    figure.update_yaxes(title={"text": literal(metric), "standoff": 8}, row=1, col=1)
    if tied:
        # Both are between 0 and about 1, so they have one axis.
        at = [positions[knot.strength] for knot in tied]
        lines = {
            "relative distance": [knot.distance for knot in tied],
            "fraction equal": [knot.tied for knot in tied],
        }
        for (name, values), color in zip(lines.items(), OKABE_ITO, strict=False):
            figure.add_scatter(
                x=at,
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": color},
                hovertemplate="%{y:.3g}",
                cliponaxis=False,
                row=2,
                col=1,
            )
        figure.update_yaxes(rangemode="tozero", row=2, col=1)
        figure.update_layout(showlegend=True)
    figure.update_xaxes(title={"text": "strength", "standoff": 8}, row=rows, col=1)
    # Strengths are a geometric progression, after 0.
    ticks = _ticks(positions)
    figure.update_xaxes(
        type="log",
        tickvals=[positions[strength] for strength in ticks],
        ticktext=[f"{strength:.3g}" for strength in ticks],
    )
    return figure
