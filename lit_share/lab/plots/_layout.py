"""What all figures have in common."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def literal(text: str) -> str:
    """A name as Plotly shows it letter by letter, where it would read tags such as ``<b>``."""
    return escape(" ".join(text.split()), quote=False)


def finish(figure: go.Figure, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """Give a figure the common look, and titles of its axes.

    A finger that moves over it scrolls the page, so there is no zoom.
    """
    figure.update_layout(
        template="plotly_white",
        font={"family": _FONT, "size": 13},
        margin={"l": 8, "r": 16, "t": 44 if "title" in layout else 30, "b": 8},
        legend={
            "orientation": "h",
            "yref": "container",
            "yanchor": "bottom",
            "y": 0.0,
            "xanchor": "left",
            "x": 0.0,
        },
        hoverlabel={"namelength": -1},
        dragmode=False,
        xaxis_title={"text": x, "standoff": 8},
        yaxis_title={"text": y, "standoff": 8},
    )
    if "title" in layout:
        layout["title"] = {
            "text": layout["title"],
            "font": {"size": 14},
            "x": 0.0,
            "xanchor": "left",
            "pad": {"l": 8},
        }
    figure.update_layout(**layout)
    figure.update_xaxes(automargin=True, fixedrange=True)
    figure.update_yaxes(automargin=True, fixedrange=True)
    return figure


def as_matrices(figure: go.Figure) -> go.Figure:
    """Draw the panels of a figure as matrices: square cells, the first row on top, and no numbers at the axes."""
    figure.update_annotations(font_size=13)
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(
        showticklabels=False,
        showgrid=False,
        zeroline=False,
        constrain="domain",
        autorange="reversed",
    )
    for axis in figure.select_yaxes():
        axis.update(scaleanchor=axis.anchor, constraintoward="top")
    return figure


def spans_decades(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis suits numbers: they are positive, and the largest is ten times the smallest."""
    values = list(values)
    return bool(values) and min(values) > 0.0 and max(values) >= 10.0 * min(values)
