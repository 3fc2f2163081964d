"""The filters of a locally connected layer, drawn at their positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._layout import as_matrices, finish, literal
from lit_share.lab.plots._palette import BLUE_TO_ORANGE

# The number of panels in a row of panels, and the height of a panel in pixels.
_COLUMNS, _PANEL = 4, 250


def position_filters(filters: Mapping[str, npt.ArrayLike], title: str = "") -> go.Figure:
    """Draw the filter at each position as a small image at that position.

    Args:
        filters: For each panel, such as a strength or an epoch, the filters from one input channel
            to one output channel, of shape (rows, columns, height, width).
        title: The figure's title.

    Returns:
        A figure with a panel per entry, on one colour scale. Different filters look like noise,
        shared filters like a repeated pattern.

    Raises:
        ValueError: If an array does not have four dimensions.

    Example:
        >>> import numpy as np
        >>> filters = {"start": np.ones((2, 2, 1, 1)), "end": np.zeros((2, 2, 1, 1))}
        >>> figure = position_filters(filters)
        >>> [list(row) for row in figure.data[0].z]
        [[1.0, None, 1.0], [None, None, None], [1.0, None, 1.0]]
    """
    panels = {name: np.asarray(array, dtype=float) for name, array in filters.items()}
    for name, panel in panels.items():
        if panel.ndim != 4:
            raise ValueError(
                f"{name!r} must have shape (rows, columns, height, width), got {panel.shape}"
            )
    # Plotly needs at least one panel.
    columns = max(min(_COLUMNS, len(panels)), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.05,
        vertical_spacing=0.12 / rows,
        subplot_titles=[literal(name) for name in panels],
    )
    magnitudes = [float(np.abs(panel).max()) for panel in panels.values() if panel.size]
    # The colour range must not be empty, even if all filters are zero.
    limit = max(magnitudes, default=0.0) or 1.0
    for i, panel in enumerate(panels.values()):
        figure.add_heatmap(
            z=_mosaic(panel),
            zmin=-limit,
            zmax=limit,
            colorscale=BLUE_TO_ORANGE,
            showscale=False,
            hovertemplate="%{z:.3g}<extra></extra>",
            hoverongaps=False,
            row=i // columns + 1,
            col=i % columns + 1,
        )
    finish(figure, title=title)
    top = 40
    if title:
        top = 84
    figure.update_layout(height=_PANEL * rows + top, margin_t=top)
    return as_matrices(figure)


def _mosaic(filters: npt.NDArray[Any]) -> list[list[float | None]]:
    """Tile filters, (rows, columns, height, width), into a matrix, with a `None` between tiles."""
    rows, columns, height, width = filters.shape
    spaced = np.full((rows, height + 1, columns, width + 1), np.nan)
    spaced[:, :height, :, :width] = filters.transpose(0, 2, 1, 3)
    mosaic = spaced.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
    return [list(map(_cell, row)) for row in mosaic]


def _cell(value: float) -> float | None:
    # JSON has no NaN. Four digits are enough for a colour and keep pages small.
    if math.isnan(value):
        return None
    return float(f"{value:.4g}")
