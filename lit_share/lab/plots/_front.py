"""Score against size, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go

from lit_share.lab.plots._intervals import Interval, error_bar
from lit_share.lab.plots._layout import finish, literal, spans_decades
from lit_share.lab.plots._palette import Style


class Point(NamedTuple):
    """Size and score of one strategy.

    Attributes:
        strategy: Name of the strategy.
        size: Number of unique parameters.
        score: Mean and interval of the metric.
        text: Hover text, such as the strength.
    """

    strategy: str
    size: float
    score: Interval
    text: str = ""


def pareto_front(
    points: Sequence[tuple[float, float]], mode: Literal["min", "max"] = "max"
) -> list[int]:
    """Find the points that are not dominated.

    A point dominates another if it is at most as large, has at least as good a score, and differs
    from it.

    Args:
        points: Size and score of each point; small sizes are better.
        mode: Whether large (`"max"`) or small (`"min"`) scores are better.

    Returns:
        The indices of the points on the Pareto front, sorted by size. Points with a score of NaN
        are not on it.

    Example:
        >>> pareto_front([(100, 0.9), (50, 0.8), (60, 0.7), (100, 0.5)])
        [1, 0]
    """
    sign = {"max": 1.0, "min": -1.0}[mode]
    front = []
    for i, (size, score) in enumerate(points):
        dominated = any(
            other_size <= size
            and sign * other >= sign * score
            and (other_size, other) != (size, score)
            for other_size, other in points
        )
        if not dominated and not math.isnan(score):
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
    """Draw the score over the number of unique parameters, with the Pareto front.

    Args:
        points: One point per strategy.
        styles: The style of each strategy.
        metric: Name of the score.
        mode: Whether large or small scores are better; `None` draws no front.
        others: Settings that were not chosen, such as other strengths, drawn as small open markers
            and not considered for the front.
        title: The figure's title.

    Returns:
        The figure; points on the front have a ring and are connected by a line.

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
    # Plotly draws traces in order: the chosen points come last, so that nothing covers them.
    if mode is not None:
        sizes_and_scores = [(point.size, point.score.mean) for point in points]
        indices = pareto_front(sizes_and_scores, mode)
        ring = {"color": "#666666", "symbol": "circle-open", "size": 22, "line": {"width": 1.5}}
        figure.add_scatter(
            x=[points[i].size for i in indices],
            y=[points[i].score.mean for i in indices],
            mode="lines+markers",
            name="Pareto front",
            line={"color": "#666666", "width": 1.5, "dash": "dot"},
            marker=ring,
            hoverinfo="skip",
        )
    for point in others:
        style = styles[point.strategy]
        marker = {"color": style.color, "symbol": f"{style.symbol}-open", "size": 7, "opacity": 0.7}
        figure.add_scatter(**_trace(point), showlegend=False, marker=marker)
    for point in points:
        style = styles[point.strategy]
        marker = {"color": style.color, "symbol": style.symbol, "size": 12}
        figure.add_scatter(**_trace(point), marker=marker, error_y=error_bar(point.score, style))
    finish(figure, "unique parameters", metric, title, height=420, showlegend=True)
    if spans_decades([point.size for point in (*points, *others)]):
        figure.update_xaxes(type="log", rangemode="normal", nticks=6)
    else:
        # An axis from 0 shows by which factor sizes differ.
        figure.update_xaxes(type="linear", rangemode="tozero", nticks=6)
    return figure


def _trace(point: Point) -> dict[str, Any]:
    return {
        "x": [point.size],
        "y": [point.score.mean],
        "mode": "markers",
        "name": literal(point.strategy),
        "text": [literal(point.text)],
        "hovertemplate": "%{text}<br>%{x:,} unique<br>%{y:.4g}",
    }
