"""One curve per strategy, with confidence bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal, spans_decades
from lit_share.lab.plots._palette import Style


class Curve(NamedTuple):
    """A line and its band.

    Attributes:
        x: Positions on the horizontal axis.
        y: Means over seeds.
        low: Lower ends of the means' intervals, `None` where undefined; empty for no band.
        high: Upper ends of the intervals.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def curves(
    lines: Mapping[str, Curve],
    styles: Mapping[str, Style],
    x: str,
    y: str,
    title: str = "",
    markers: bool = True,
) -> go.Figure:
    """Draw one quantity over another, such as the score over the number of examples.

    Args:
        lines: The curve of each strategy.
        styles: The style of each strategy.
        x: Title of the horizontal axis, which is logarithmic if `markers` and the values are
            positive and span a decade.
        y: Title of the vertical axis.
        title: The figure's title.
        markers: Whether every point has a marker, or only the last.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> lines = {"none": Curve([20, 100], [0.6, 0.8]), "soft_tie": Curve([20, 100], [0.7, 0.8])}
        >>> [trace.name for trace in curves(lines, styles(lines), "data.n_b", "b/test/acc").data]
        ['none', 'soft_tie']
    """
    figure = go.Figure()
    # Plotly draws traces in order: bands come first, so that they cover no line.
    for strategy, line in lines.items():
        add_band(figure, strategy, line, styles[strategy])
    for strategy, line in lines.items():
        size: int | list[int] = 9
        if not markers:
            size = [0] * (len(line.x) - 1) + [9]
        add_line(figure, strategy, line, styles[strategy], {"size": size})
    finish(figure, x, y, title, hovermode="x unified", showlegend=True)
    if not markers:
        return figure.update_layout(height=260)
    figure.update_layout(height=420)
    ticks: list[float] = sorted(set().union(*(line.x for line in lines.values())))
    # More than ten numbers would overlap.
    if len(ticks) <= 10:
        texts = [f"{tick:g}" for tick in ticks]
        figure.update_xaxes(tickmode="array", tickvals=ticks, ticktext=texts)
    if spans_decades(ticks):
        figure.update_xaxes(type="log")
    return figure


def add_band(figure: go.Figure, strategy: str, line: Curve, style: Style, **place: Any) -> None:
    """Draw the band of a line, over the points whose interval is defined."""
    x, lows, highs = [], [], []
    # Not strict: a line without a band has empty ends.
    for at, low, high in zip(line.x, line.low, line.high, strict=False):
        if low is not None and high is not None:
            x.append(at)
            lows.append(low)
            highs.append(high)
    if not x:
        return
    figure.add_scatter(
        # The polygon follows the upper ends to the right and the lower ends back.
        x=[*x, *reversed(x)],
        y=[*highs, *reversed(lows)],
        fill="toself",
        fillcolor=style.color,
        opacity=0.12,
        line={"width": 0},
        mode="lines",
        legendgroup=literal(strategy),
        showlegend=False,
        hoverinfo="skip",
        **place,
    )


def add_line(
    figure: go.Figure,
    strategy: str,
    line: Curve,
    style: Style,
    marker: Mapping[str, object],
    **options: Any,
) -> None:
    """Draw a line in its strategy's style, with markers that `marker` may change."""
    figure.add_scatter(
        x=list(line.x),
        y=list(line.y),
        mode="lines+markers",
        name=literal(strategy),
        legendgroup=literal(strategy),
        line={"color": style.color, "dash": style.dash, "width": 2},
        marker={"color": style.color, "symbol": style.symbol, **marker},
        **options,
    )
