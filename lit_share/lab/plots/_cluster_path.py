"""The number of clusters of each tie over the strength."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish, literal

# As in the heat map of tied fractions, darker is more equal.
_DARK_TO_LIGHT = [[0.0, "#003a5d"], [0.5, "#7db4d6"], [1.0, "#f4f8fb"]]


def cluster_path(counts: Mapping[float, Mapping[str, float]], title: str = "") -> go.Figure:
    """Draw into how many clusters of equal members each tie falls at each strength.

    Args:
        counts: For each strength, the number of clusters by the tie's name: 1 if all members are
            equal, the number of members if all differ.
        title: The figure's title.

    Returns:
        A heat map with a row per tie, in the order of the network, and a column per strength, in
        ascending order.

    Example:
        >>> figure = cluster_path({1.0: {"w": 1.0}, 0.1: {"w": 2.5}})
        >>> list(figure.data[0].x), [list(row) for row in figure.data[0].text]
        (['0.1', '1'], [['2.5', '1']])
    """
    strengths = sorted(counts)
    ties = list(dict.fromkeys(chain.from_iterable(counts.values())))
    cells = [[counts[at].get(tie) for at in strengths] for tie in ties]
    # At least 2, so that the scale is not empty where all members are equal.
    most = max([2.0, *chain.from_iterable(by_tie.values() for by_tie in counts.values())])
    figure = go.Figure(
        go.Heatmap(
            z=cells,
            x=[f"{at:.4g}" for at in strengths],
            y=[literal(tie) for tie in ties],
            text=[list(map(_number, row)) for row in cells],
            texttemplate="%{text}",
            zmin=1.0,
            zmax=math.ceil(most),
            colorscale=_DARK_TO_LIGHT,
            xgap=2,
            ygap=2,
            showscale=False,
            hovertemplate="%{y}, strength %{x}: %{text} clusters<extra></extra>",
        )
    )
    finish(figure, x="strength", title=title, height=130 + 34 * len(ties))
    # Without "category", strengths would be placed by their value, and small ones in one place.
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure


def _number(count: float | None) -> str:
    if count is None:
        return ""
    return f"{count:.3g}"
