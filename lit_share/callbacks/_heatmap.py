"""The heat map of distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def distance_heatmap(history: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw the distance between the members of each tie at each epoch.

    Args:
        history: The relative distances by the tie's name, at initialisation and after every epoch;
            NaN if not measured.

    Returns:
        A Plotly figure of ties × epochs; darker is closer.

    Example:
        >>> distance_heatmap({"0.weight": [1.0, 0.5], "0.bias": [0.9, 0.0]}).data[0].zmax
        1.0
    """
    # The import takes half a second, and only figures need it.
    import plotly.graph_objects as go

    finite = filter(math.isfinite, chain.from_iterable(history.values()))
    heat = go.Heatmap(
        z=[list(distances) for distances in history.values()],
        # Names are escaped because Plotly would render tags such as <b>.
        y=[escape(" ".join(tie.split()), quote=False) for tie in history],
        zmin=0.0,
        # The scale ends at 1, the distance of unrelated members, so that figures of runs compare.
        zmax=max([1.0, *finite]),
        colorscale="Viridis",
        colorbar={"title": "relative<br>distance", "thickness": 12},
    )
    figure = go.Figure(heat)
    figure.update_layout(
        template="plotly_white",
        title={"text": "Distance between tied parameters", "font": {"size": 14}},
        margin={"l": 8, "r": 16, "t": 44, "b": 8},
        height=130 + 34 * max(len(history), 2),
        dragmode=False,
    )
    figure.update_xaxes(
        title_text="epoch", automargin=True, fixedrange=True, showgrid=False, zeroline=False
    )
    figure.update_yaxes(automargin=True, fixedrange=True, showgrid=False, autorange="reversed")
    return figure
