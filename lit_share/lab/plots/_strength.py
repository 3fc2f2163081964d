"""What the strength of a penalty does: score and distance, strategy by strategy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._curves import Curve, add_band, add_line
from lit_share.lab.plots._layout import finish, literal
from lit_share.lab.plots._palette import Style

# How far 0 stands from the smallest positive strength, as a factor.
_ZERO_BELOW = 10.0
# Ticks are at strengths that were tried, if these are few, and not closer than this part of the axis.
_APART = 0.07


class StrengthPath(NamedTuple):
    """One strategy at several strengths.

    Attributes:
        score: The metric over strengths, which are numbers ≥ 0.
        distance: How far the members are apart over strengths; `None` if that was not measured.
        chosen: The strength that was chosen, for each seed.
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
    """Draw score and distance over the strength, from what hardly ties to what makes equal.

    Args:
        paths: What to draw, by strategy.
        styles: How each strategy looks.
        metric: The score's name.
        others: Score and distance of strategies that have no strength: thin level lines.
        title: The figure's title.

    Returns:
        The figure: the score above the distance, over one logarithmic axis. Markers of strengths that were chosen are
        filled, and larger if for more seeds. A strength of 0 stands at the left end.

    Example:
        >>> from lit_share.lab.plots import Curve, styles
        >>> path = StrengthPath(Curve([0.1, 1.0], [0.8, 0.9]), Curve([0.1, 1.0], [0.5, 0.0]), chosen=[1.0])
        >>> figure = strength_path({"soft_tie": path}, styles(["soft_tie"]), "b/test/acc")
        >>> [(list(trace.x), list(trace.y)) for trace in figure.data]
        [([0.1, 1.0], [0.8, 0.9]), ([0.1, 1.0], [0.5, 0.0])]
    """
    scores = {strategy: path.score for strategy, path in paths.items()}
    distances = {
        strategy: path.distance for strategy, path in paths.items() if path.distance is not None
    }
    quantities = {metric: scores, "relative distance": distances} if distances else {metric: scores}
    figure = make_subplots(rows=len(quantities), shared_xaxes=True, vertical_spacing=0.06)
    strengths = sorted(
        {at for lines in quantities.values() for line in lines.values() for at in line.x}
    )
    places = _places(strengths)
    for row, lines in enumerate(quantities.values(), start=1):
        place = {"row": row, "col": 1}
        for strategy, levels in (others or {}).items():
            level = levels[row - 1]
            if level is not None and strengths:
                line = Curve([places[strengths[0]], places[strengths[-1]]], [level, level])
                add_line(figure, strategy, line, styles[strategy], {}, showlegend=row == 1, **place)
                figure.data[-1].update(mode="lines", line_width=1.2)
        moved = {
            strategy: line._replace(x=[places[at] for at in line.x])
            for strategy, line in lines.items()
        }
        for strategy, line in moved.items():
            add_band(figure, strategy, line, styles[strategy], **place)
        for strategy, line in moved.items():
            marks = _marks(styles[strategy], paths[strategy].chosen, lines[strategy].x)
            add_line(figure, strategy, line, styles[strategy], marks, showlegend=row == 1, **place)
            figure.data[-1].update(
                text=_choices(paths[strategy].chosen, lines[strategy].x),
                hovertemplate="%{y:.4g}%{text}",
                cliponaxis=False,  # a distance of 0 is on the axis
            )
    finish(figure, **({"title": literal(title)} if title else {}))
    figure.update_layout(
        height=420 if len(quantities) == 1 else 560, hovermode="x unified", showlegend=True
    )
    for row, name in enumerate(quantities, start=1):
        figure.update_yaxes(title={"text": literal(name), "standoff": 8}, row=row, col=1)
    if distances:
        figure.update_yaxes(rangemode="tozero", row=2, col=1)
        # Markers at 0 leave the tick labels free.
        figure.update_xaxes(ticks="outside", ticklen=8, tickcolor="rgba(0, 0, 0, 0)", row=2, col=1)
    figure.update_xaxes(title={"text": "strength", "standoff": 8}, row=len(quantities), col=1)
    figure.update_xaxes(type="log")
    ticks = _ticks(places)
    figure.update_xaxes(
        tickvals=[places[at] for at in ticks], ticktext=[f"{at:.3g}" for at in ticks]
    )
    return figure


def _marks(style: Style, chosen: Sequence[float], strengths: Sequence[float]) -> dict[str, object]:
    """Filled markers of what was chosen, larger if for more seeds, and small open ones of the rest."""
    shares = [chosen.count(at) / len(chosen) if chosen else 0.0 for at in strengths]
    return {
        "symbol": [style.symbol if share else f"{style.symbol}-open" for share in shares],
        "size": [8.0 + 8.0 * share if share else 7.0 for share in shares],
        "opacity": 1.0,
    }


def _choices(chosen: Sequence[float], strengths: Sequence[float]) -> list[str]:
    """What is said of strengths that were chosen."""
    counts = Counter(chosen)
    return [
        f", chosen for {counts[at]} of {len(chosen)} seeds" if at in counts else ""
        for at in strengths
    ]


def _places(strengths: Iterable[float]) -> dict[float, float]:
    """Where strengths are on a logarithmic axis, on which there is no 0."""
    strengths = list(strengths)
    smallest = min((at for at in strengths if at > 0.0), default=1.0)
    return {at: at if at > 0.0 else smallest / _ZERO_BELOW for at in strengths}


def _ticks(places: Mapping[float, float]) -> list[float]:
    """The strengths that have room for their number, from the smallest on."""
    if not places:
        return []
    axis = math.log(max(places.values()) / min(places.values()))
    kept: list[float] = []
    for at in places:
        if not kept or math.log(places[at] / places[kept[-1]]) >= _APART * axis:
            kept.append(at)
    return kept
