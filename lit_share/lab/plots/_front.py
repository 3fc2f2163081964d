"""Score against size, and which strategies are on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._intervals import Interval, error_bar
from lit_share.lab.plots._layout import finish, literal, spans_decades
from lit_share.lab.plots._palette import Style


class Point(NamedTuple):
    """One strategy with what it takes and what it gives.

    Attributes:
        strategy: Its name.
        size: The number of unique parameters.
        score: The metric.
        text: What is shown when the mouse is on it, such as the strength.
    """

    strategy: str
    size: float
    score: Interval
    text: str = ""


def pareto_front(
    points: Sequence[tuple[float, float]], mode: Literal["min", "max"] = "max"
) -> list[int]:
    """Find the points that no other one betters: none is at most as large and at least as good, and not the same.

    Args:
        points: Size, which is to be small, and score.
        mode: Whether the score is to be large or small.

    Returns:
        The positions of these points, by size.

    Example:
        >>> pareto_front([(100, 0.9), (50, 0.8), (60, 0.7), (100, 0.5)])
        [1, 0]
    """
    sign = 1.0 if mode == "max" else -1.0
    front = []
    for i, (size, score) in enumerate(points):
        bettered = any(
            s <= size and sign * other >= sign * score and (s, other) != (size, score)
            for s, other in points
        )
        if not bettered and score == score:
            front.append(i)
    return sorted(front, key=lambda i: points[i])


def score_against_size(
    points: Sequence[Point],
    styles: Mapping[str, Style],
    metric: str,
    mode: Literal["min", "max"] | None = "max",
    others: Sequence[Point] = (),
    title: str = "",
) -> go.Figure:
    """Draw the score over the number of unique parameters, and the Pareto front of the points.

    Args:
        points: One per strategy.
        styles: How each strategy looks.
        metric: The score's name.
        mode: Whether the score is to be large or small; without it there is no front.
        others: Settings that were not chosen, such as other strengths: small, open, and not on the front.
        title: The figure's title.

    Returns:
        The figure; points on the front have a ring, and a line connects them.

    Example:
        >>> from lit_share.lab.plots import styles
        >>> points = [Point("none", 200, Interval(0.8)), Point("hard_tie", 100, Interval(0.85))]
        >>> figure = score_against_size(points, styles(["none", "hard_tie"]), "b/test/acc")
        >>> [trace.name for trace in figure.data]
        ['Pareto front', 'none', 'hard_tie']
        >>> list(figure.data[0].x)
        [100]
    """
    figure = go.Figure()
    if mode is not None:
        front = [
            points[i]
            for i in pareto_front([(point.size, point.score.mean) for point in points], mode)
        ]
        figure.add_scatter(
            x=[point.size for point in front],
            y=[point.score.mean for point in front],
            mode="lines+markers",
            name="Pareto front",
            line={"color": "#666666", "width": 1.5, "dash": "dot"},
            marker={
                "color": "#666666",
                "symbol": "circle-open",
                "size": 22,
                "line": {"width": 1.5},
            },
            hoverinfo="skip",
        )
    for point in others:
        style = styles[point.strategy]
        figure.add_scatter(
            **_place(point),
            showlegend=False,
            marker={
                "color": style.color,
                "symbol": f"{style.symbol}-open",
                "size": 7,
                "opacity": 0.7,
            },
        )
    for point in points:
        style = styles[point.strategy]
        figure.add_scatter(
            **_place(point),
            marker={"color": style.color, "symbol": style.symbol, "size": 12},
            error_y=error_bar(point.score, style),
        )
    finish(
        figure, "unique parameters", literal(metric), **({"title": literal(title)} if title else {})
    )
    log = spans_decades([point.size for point in (*points, *others)])
    figure.update_layout(height=420, showlegend=True)
    figure.update_xaxes(
        type="log" if log else "linear", rangemode="normal" if log else "tozero", nticks=6
    )
    return figure


def _place(point: Point) -> dict[str, Any]:
    """Where a point is, and what it says."""
    return {
        "x": [point.size],
        "y": [point.score.mean],
        "mode": "markers",
        "name": literal(point.strategy),
        "text": [literal(point.text)],
        "hovertemplate": "%{text}<br>%{x:,} unique<br>%{y:.4g}",
    }
