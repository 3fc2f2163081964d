"""Curves: one line per strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal, spans_decades
from lit_share.lab.plots._palette import Style


class Curve(NamedTuple):
    """A line, with a band around it where it has one.

    Attributes:
        x: The horizontal axis.
        y: Means over seeds.
        low: The lower ends of their intervals; `None` where one is undefined, and empty for no band.
        high: The upper ends.
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
    """Draw a quantity over another one, such as the score over the number of examples.

    Args:
        lines: What to draw, by strategy.
        styles: How each strategy looks.
        x: The horizontal axis' title; it is logarithmic where the numbers span a decade and there are markers.
        y: The vertical axis' title.
        title: The figure's title.
        markers: Whether each number has a marker, or only the last.

    Returns:
        The figure: one line per strategy.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> lines = {"none": Curve([20, 100], [0.6, 0.8]), "soft_tie": Curve([20, 100], [0.7, 0.8])}
        >>> [trace.name for trace in curves(lines, styles(lines), "data.n_b", "b/test/acc").data]
        ['none', 'soft_tie']
    """
    figure = go.Figure()
    for strategy, line in lines.items():
        add_band(figure, strategy, line, styles[strategy])
    for strategy, line in lines.items():
        last = [0] * (len(line.x) - 1) + [9]
        add_line(figure, strategy, line, styles[strategy], {"size": 9 if markers else last})
    finish(figure, literal(x), literal(y), **({"title": literal(title)} if title else {}))
    figure.update_layout(height=420 if markers else 260, hovermode="x unified", showlegend=True)
    ticks = sorted({at for line in lines.values() for at in line.x})
    if markers and len(ticks) <= 10:
        figure.update_xaxes(
            tickmode="array", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
        )
    if markers and spans_decades(ticks):
        figure.update_xaxes(type="log")
    return figure


def add_band(figure: go.Figure, strategy: str, line: Curve, style: Style, **place: Any) -> None:
    """Draw a line's band, without those of its ends that are undefined."""
    ends = [
        (at, low, high)
        for at, low, high in zip(line.x, line.low, line.high, strict=False)
        if low is not None and high is not None
    ]
    if ends:
        at, low, high = zip(*ends, strict=True)
        figure.add_scatter(
            x=[*at, *reversed(at)],
            y=[*high, *reversed(low)],
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
    """Draw a line, with markers in its strategy's style as far as nothing else is said of them."""
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
