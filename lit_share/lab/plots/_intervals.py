"""Dots with intervals: one quantity, strategy by strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal
from lit_share.lab.plots._palette import Style

# Where the seeds are, in rows below their mean, so that they and the interval do not hide each other.
_BELOW = 0.22


class Interval(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: The mean.
        low: The lower end of its interval; `None` where it is undefined, as for one seed.
        high: The upper end.
        text: What is written at the dot.
        values: The number of each seed, drawn as small dots.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    values: Sequence[float] = ()


def intervals(
    points: Mapping[str, Interval],
    styles: Mapping[str, Style],
    quantity: str,
    title: str = "",
    from_zero: bool = False,
) -> go.Figure:
    """Draw a dot and an interval for each strategy, and the seeds behind them.

    Args:
        points: What to draw, by strategy; the first is on top.
        styles: How each strategy looks.
        quantity: The title of the axis.
        title: The figure's title.
        from_zero: Whether the axis begins at 0, as it should for sizes and times.

    Returns:
        A figure with one row per strategy.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> scores = {"none": Interval(0.8, 0.7, 0.9), "soft_tie": Interval(0.9)}
        >>> figure = intervals(scores, styles(scores), "b/test/acc")
        >>> [trace.name for trace in figure.data]
        ['none', 'soft_tie']
    """
    figure = go.Figure()
    if from_zero:
        points = {
            name: point._replace(low=point.low and max(point.low, 0.0))
            for name, point in points.items()
        }
    drawn = [
        x for p in points.values() for x in (p.mean, p.low, p.high, *p.values) if x is not None
    ]
    left, right = (min([0.0, *drawn] if from_zero else drawn), max(drawn)) if drawn else (0.0, 0.0)
    for row, (strategy, point) in enumerate(points.items()):
        name, style = literal(strategy), styles[strategy]
        if len(point.values) > 1:
            figure.add_scatter(
                x=list(point.values),
                y=[row + _BELOW] * len(point.values),
                mode="markers",
                marker={
                    "color": style.color,
                    "symbol": f"{style.symbol}-open",
                    "size": 6,
                    "opacity": 0.7,
                },
                hovertemplate="one seed: %{x}<extra></extra>",
            )
        figure.add_scatter(
            x=[point.mean],
            y=[row],
            mode="markers+text",
            name=name,
            text=[literal(point.text)],
            textposition=_side(point.mean, left, right),
            textfont={"size": 12},
            cliponaxis=False,
            marker={"color": style.color, "symbol": style.symbol, "size": 11},
            error_x=error_bar(point, style),
            hovertemplate="%{text}",
        )
    finish(
        figure, literal(quantity), **({"title": literal(title)} if title else {}), showlegend=False
    )
    figure.update_layout(height=(120 if title else 90) + 46 * len(points))
    rows = list(range(len(points)))
    names = [literal(strategy) for strategy in points]
    figure.update_yaxes(
        tickmode="array",
        tickvals=rows,
        ticktext=names,
        range=[len(rows) - 0.5, -0.7],
        zeroline=False,
    )
    figure.update_xaxes(rangemode="tozero" if from_zero else "normal", nticks=6)
    return figure


def _side(x: float, left: float, right: float) -> str:
    """Where a dot's text is not cut off at the edge of a narrow figure."""
    at = (x - left) / (right - left) if right > left else 0.5
    return "top left" if at > 0.8 else "top right" if at < 0.2 else "top center"


def error_bar(point: Interval, style: Style) -> dict[str, object] | None:
    """Plotly's asymmetric error bar; `None` where there is no interval."""
    if point.low is None or point.high is None:
        return None
    ends = {"array": [point.high - point.mean], "arrayminus": [point.mean - point.low]}
    return {
        "type": "data",
        "symmetric": False,
        **ends,
        "color": style.color,
        "thickness": 2,
        "width": 6,
    }
