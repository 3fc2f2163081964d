"""Dot plots with intervals: one quantity, one row per strategy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal
from lit_share.lab.plots._palette import Style

# The dots of the seeds are this fraction of a row below their mean, so that the interval does not
# cover them.
_BELOW = 0.22


class Interval(NamedTuple):
    """A mean over seeds and its interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; `None` where undefined, as for one seed.
        high: Upper end of the interval.
        text: Label of the dot.
        values: The value of each seed, drawn as small dots.
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
    """Draw mean, interval and seeds of each strategy.

    Args:
        points: The interval of each strategy, from top to bottom.
        styles: The style of each strategy.
        quantity: Title of the axis.
        title: The figure's title.
        from_zero: Whether the axis starts at 0, as it should for sizes and times.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> scores = {"none": Interval(0.8, 0.7, 0.9), "soft_tie": Interval(0.9)}
        >>> figure = intervals(scores, styles(scores), "b/test/acc")
        >>> [trace.name for trace in figure.data]
        ['none', 'soft_tie']
    """
    figure = go.Figure()
    if from_zero:
        # Intervals are symmetric and could extend to sizes below 0, which do not exist.
        points = {
            name: point._replace(low=point.low and max(point.low, 0.0))
            for name, point in points.items()
        }
    left, right = _limits(points.values(), from_zero)
    for row, (strategy, point) in enumerate(points.items()):
        name, style = literal(strategy), styles[strategy]
        if len(point.values) > 1:
            open_symbol = f"{style.symbol}-open"
            figure.add_scatter(
                x=list(point.values),
                y=[row + _BELOW] * len(point.values),
                mode="markers",
                marker={"color": style.color, "symbol": open_symbol, "size": 6, "opacity": 0.7},
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
    height = 90 + 46 * len(points)
    if title:
        height += 30
    finish(figure, quantity, title=title, height=height, showlegend=False)
    names = [literal(strategy) for strategy in points]
    figure.update_yaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=names)
    # A range from high to low has the first strategy on top; 0.7 leaves space for its label.
    figure.update_yaxes(range=[len(names) - 0.5, -0.7], zeroline=False)
    figure.update_xaxes(rangemode="normal", nticks=6)
    if from_zero:
        figure.update_xaxes(rangemode="tozero")
    return figure


def _limits(points: Iterable[Interval], from_zero: bool) -> tuple[float, float]:
    """Return the minimum, at most 0 if `from_zero`, and maximum of all numbers drawn; 0 if none."""
    drawn: list[float] = []
    for point in points:
        numbers = (point.mean, point.low, point.high, *point.values)
        drawn += [number for number in numbers if number is not None]
    right = max(drawn, default=0.0)
    if from_zero:
        drawn = [0.0, *drawn]
    return min(drawn, default=0.0), right


def _side(x: float, left: float, right: float) -> str:
    """Return Plotly's `textposition` of a label at ``x``: above, and inwards if near a limit."""
    if right <= left:
        return "top center"
    fraction = (x - left) / (right - left)
    if fraction > 0.8:
        return "top left"
    if fraction < 0.2:
        return "top right"
    return "top center"


def error_bar(point: Interval, style: Style) -> dict[str, object] | None:
    """Return Plotly's error bar of an interval, or `None` if it is undefined."""
    if point.low is None or point.high is None:
        return None
    bar = {"type": "data", "color": style.color, "thickness": 2, "width": 6}
    # With `from_zero` the lower end is cut off, so that the two ends differ.
    ends = {"array": [point.high - point.mean], "arrayminus": [point.mean - point.low]}
    return {**bar, **ends, "symmetric": False}
