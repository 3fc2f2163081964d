"""The layout that all figures have in common."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def literal(text: str) -> str:
    """Escape text, in which Plotly would interpret tags such as ``<b>``."""
    return escape(" ".join(text.split()), quote=False)


def finish(
    figure: go.Figure, x: str = "", y: str = "", title: str = "", **layout: Any
) -> go.Figure:
    """Set fonts, margins and legend of a figure, and the titles of the figure and its axes."""
    figure.update_layout(
        template="plotly_white",
        font={"family": _FONT, "size": 13},
        margin={"l": 8, "r": 16, "t": 30, "b": 8},
        # A legend below the plot leaves its full width to narrow screens.
        legend={
            "orientation": "h",
            "yref": "container",
            "yanchor": "bottom",
            "y": 0.0,
            "xanchor": "left",
            "x": 0.0,
        },
        hoverlabel={"namelength": -1},
        # Without drag and zoom, a finger that moves over the figure scrolls the page.
        dragmode=False,
        xaxis_title={"text": literal(x), "standoff": 8},
        yaxis_title={"text": literal(y), "standoff": 8},
    )
    if title:
        figure.update_layout(
            title={
                "text": literal(title),
                "font": {"size": 14},
                "x": 0.0,
                "xanchor": "left",
                "pad": {"l": 8},
            },
            margin_t=44,
        )
    figure.update_layout(**layout)
    figure.update_xaxes(automargin=True, fixedrange=True)
    figure.update_yaxes(automargin=True, fixedrange=True)
    return figure


def as_matrices(figure: go.Figure) -> go.Figure:
    """Draw heat maps as matrices: square cells, the first row on top, axes without numbers."""
    figure.update_annotations(font_size=13)
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False}
    # With "domain" the panel shrinks to its square cells; otherwise Plotly would extend the range.
    figure.update_xaxes(**hidden, constrain="domain")
    figure.update_yaxes(**hidden, constrain="domain", autorange="reversed")
    for axis in figure.select_yaxes():
        axis.update(scaleanchor=axis.anchor, constraintoward="top")
    return figure


def spans_decades(values: Iterable[float]) -> bool:
    """Whether values suit a logarithmic axis: positive, the largest at least 10 × the smallest."""
    values = list(values)
    return bool(values) and min(values) > 0.0 and max(values) >= 10.0 * min(values)
