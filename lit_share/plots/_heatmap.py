"""The heat map of distances: ties × epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from lit_share.plots._layout import finish, literal


def distance_heatmap(history: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw how far the members of each tie are apart, epoch by epoch.

    Args:
        history: The relative distances by the tie's name, at initialisation and after every epoch; NaN where they were
            not measured.

    Returns:
        A figure with ties as rows and epochs as columns; darker is closer.

    Example:
        >>> distance_heatmap({"trunk.0.weight": [1.0, 0.5], "trunk.0.bias": [0.9, 0.0]}).data[0].zmax
        1.0
    """
    ties = list(history)
    largest = max((d for distances in history.values() for d in distances if math.isfinite(d)), default=1.0)
    figure = go.Figure(
        go.Heatmap(
            z=[list(history[tie]) for tie in ties],
            y=[literal(tie) for tie in ties],
            zmin=0.0,
            zmax=max(1.0, largest),
            colorscale="Viridis",
            colorbar={"title": "relative<br>distance", "thickness": 12},
        )
    )
    finish(figure, "epoch", title="Distance between tied parameters", height=130 + 34 * max(len(ties), 2))
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
