"""The heat map of distances: ties × epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def distance_heatmap(history: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw how far the members of each tie are apart, epoch by epoch.

    Args:
        history: The relative distances by the tie's name, at initialisation and after every epoch; NaN where they were
            not measured.

    Returns:
        A Plotly figure with ties as rows and epochs as columns; darker is closer.

    Example:
        >>> distance_heatmap({"trunk.0.weight": [1.0, 0.5], "trunk.0.bias": [0.9, 0.0]}).data[0].zmax
        1.0
    """
    import plotly.graph_objects as go  # only to draw: it takes half a second

    ties = list(history)
    largest = max(
        (d for distances in history.values() for d in distances if math.isfinite(d)), default=1.0
    )
    heat = go.Heatmap(
        z=[list(history[tie]) for tie in ties],
        # Plotly would read tags such as <b> in a name.
        y=[escape(" ".join(tie.split()), quote=False) for tie in ties],
        zmin=0.0,
        zmax=max(1.0, largest),
        colorscale="Viridis",
        colorbar={"title": "relative<br>distance", "thickness": 12},
    )
    figure = go.Figure(heat)
    figure.update_layout(
        template="plotly_white",
        title={"text": "Distance between tied parameters", "font": {"size": 14}},
        margin={"l": 8, "r": 16, "t": 44, "b": 8},
        height=130 + 34 * max(len(ties), 2),
        dragmode=False,
    )
    figure.update_xaxes(
        title_text="epoch", automargin=True, fixedrange=True, showgrid=False, zeroline=False
    )
    figure.update_yaxes(automargin=True, fixedrange=True, showgrid=False, autorange="reversed")
    return figure
