"""Score and distance of strategies over the strength of their penalty."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._curves import Curve, add_band, add_line
from lit_share.lab.plots._layout import finish, literal
from lit_share.lab.plots._palette import Style

# A logarithmic axis has no 0: a strength of 0 is drawn at the smallest positive strength divided by
# this factor.
_ZERO_BELOW = 10.0
# Ticks are drawn at the strengths, except where two would be closer than this fraction of the axis.
_TICK_DISTANCE = 0.07


class StrengthPath(NamedTuple):
    """One strategy at several strengths.

    Attributes:
        score: The metric over strengths ≥ 0.
        distance: The relative distance of the members over strengths; `None` if not measured.
        chosen: The strength that was chosen for each seed.
    """

    score: Curve
    distance: Curve | None = None
    chosen: Sequence[float] = ()


def strength_path(
    paths: Mapping[str, StrengthPath],
    styles: Mapping[str, Style],
    metric: str,
    others: Mapping[str, tuple[float, float | None]] | None = None,
    title: str = "",
) -> go.Figure:
    """Draw score and distance over the strength.

    Args:
        paths: The path of each strategy.
        styles: The style of each strategy.
        metric: Name of the score.
        others: Score and distance of strategies without a strength, drawn as thin horizontal lines.
        title: The figure's title.

    Returns:
        The figure: the score above the distance, over one logarithmic axis with a strength of 0 at
        its left end. Chosen strengths have filled markers, whose size grows with the number of
        seeds.

    Example:
        >>> from lit_share.lab.plots import Curve, styles
        >>> score, distance = Curve([0.1, 1.0], [0.8, 0.9]), Curve([0.1, 1.0], [0.5, 0.0])
        >>> path = StrengthPath(score, distance, chosen=[1.0])
        >>> figure = strength_path({"soft_tie": path}, styles(["soft_tie"]), "b/test/acc")
        >>> [(list(trace.x), list(trace.y)) for trace in figure.data]
        [([0.1, 1.0], [0.8, 0.9]), ([0.1, 1.0], [0.5, 0.0])]
    """
    quantities = {metric: {strategy: path.score for strategy, path in paths.items()}}
    distances = {
        strategy: path.distance for strategy, path in paths.items() if path.distance is not None
    }
    if distances:
        quantities["relative distance"] = distances
    figure = make_subplots(rows=len(quantities), shared_xaxes=True, vertical_spacing=0.06)
    all_lines = chain.from_iterable(lines.values() for lines in quantities.values())
    positions = _positions(sorted(set().union(*(line.x for line in all_lines))))
    for row, lines in enumerate(quantities.values(), start=1):
        # The first row has all strategies, so that the legend needs no other.
        options = {"showlegend": row == 1, "row": row, "col": 1}
        for strategy, levels in (others or {}).items():
            level = levels[row - 1]
            if level is not None and positions:
                ends = [min(positions.values()), max(positions.values())]
                line = Curve(ends, [level, level])
                add_line(figure, strategy, line, styles[strategy], {}, **options)
                figure.data[-1].update(mode="lines", line_width=1.2)
        on_axis = {
            strategy: line._replace(x=[positions[at] for at in line.x])
            for strategy, line in lines.items()
        }
        # Plotly draws traces in order: bands come first, so that they cover no line.
        for strategy, line in on_axis.items():
            add_band(figure, strategy, line, styles[strategy], row=row, col=1)
        for strategy, line in on_axis.items():
            chosen, strengths = paths[strategy].chosen, lines[strategy].x
            marks = _marks(styles[strategy], chosen, strengths)
            add_line(figure, strategy, line, styles[strategy], marks, **options)
            figure.data[-1].update(
                text=_choices(chosen, strengths),
                hovertemplate="%{y:.4g}%{text}",
                cliponaxis=False,  # A distance of 0 lies on the axis.
            )
    finish(figure, title=title, height=420, hovermode="x unified", showlegend=True)
    if distances:
        figure.update_layout(height=560)
        figure.update_yaxes(rangemode="tozero", row=2, col=1)
        # Transparent ticks keep the numbers below the markers of a distance of 0.
        figure.update_xaxes(ticks="outside", ticklen=8, tickcolor="rgba(0, 0, 0, 0)", row=2, col=1)
    for row, name in enumerate(quantities, start=1):
        figure.update_yaxes(title={"text": literal(name), "standoff": 8}, row=row, col=1)
    figure.update_xaxes(title={"text": "strength", "standoff": 8}, row=len(quantities), col=1)
    ticks = _ticks(positions)
    figure.update_xaxes(
        type="log",
        tickvals=[positions[at] for at in ticks],
        ticktext=[f"{at:.3g}" for at in ticks],
    )
    return figure


def _marks(style: Style, chosen: Sequence[float], strengths: Sequence[float]) -> dict[str, object]:
    """Return Plotly's markers by strength: larger the more seeds chose it, open if none did."""
    counts = Counter(chosen)
    symbols, sizes = [], []
    for at in strengths:
        if at in counts:
            symbols.append(style.symbol)
            sizes.append(8.0 + 8.0 * counts[at] / len(chosen))
        else:
            symbols.append(f"{style.symbol}-open")
            sizes.append(7.0)
    # Plotly's default opacity of markers of several sizes is 0.7.
    return {"symbol": symbols, "size": sizes, "opacity": 1.0}


def _choices(chosen: Sequence[float], strengths: Sequence[float]) -> list[str]:
    """Return hover texts: how many seeds chose each strength, or ``""`` if none did."""
    counts = Counter(chosen).items()
    texts = {at: f", chosen for {count} of {len(chosen)} seeds" for at, count in counts}
    return [texts.get(at, "") for at in strengths]


def _positions(strengths: Sequence[float]) -> dict[float, float]:
    """Return each strength's x on a logarithmic axis: itself; for 0, a number below all others."""
    smallest = min((at for at in strengths if at > 0.0), default=1.0)
    return {at: max(at, smallest / _ZERO_BELOW) for at in strengths}


def _ticks(positions: Mapping[float, float]) -> list[float]:
    """Return the strengths that get a tick: the first, and each far enough right of the last."""
    if not positions:
        return []
    length = math.log(max(positions.values()) / min(positions.values()))
    ticks: list[float] = []
    for at, position in positions.items():
        if not ticks or math.log(position / positions[ticks[-1]]) >= _TICK_DISTANCE * length:
            ticks.append(at)
    return ticks
