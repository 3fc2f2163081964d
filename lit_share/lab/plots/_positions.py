"""The filters of a locally connected layer, position by position: many of them, or one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._layout import as_matrices, finish, literal
from lit_share.lab.plots._palette import BLUE_TO_ORANGE

# Panels beside each other, and how wide and high one is.
_COLUMNS, _PANEL = 4, 250


def position_filters(filters: Mapping[str, npt.ArrayLike], title: str = "") -> go.Figure:
    """Draw the filter at each position, as small pictures where the positions are.

    Args:
        filters: By what a panel is of, such as a strength or an epoch: one filter (of one input and one output channel)
            at all positions, of shape (rows, columns, height, width).
        title: The figure's title.

    Returns:
        One panel for each, with the same colours. Filters that differ look like noise, and one filter at all positions
        like a pattern.

    Raises:
        ValueError: If an array does not have four dimensions.

    Example:
        >>> import numpy as np
        >>> figure = position_filters({"start": np.ones((2, 2, 1, 1)), "end": np.zeros((2, 2, 1, 1))})
        >>> [list(row) for row in figure.data[0].z]
        [[1.0, None, 1.0], [None, None, None], [1.0, None, 1.0]]
    """
    panels = {name: np.asarray(array, dtype=float) for name, array in filters.items()}
    for name, panel in panels.items():
        if panel.ndim != 4:
            raise ValueError(
                f"{name!r} must have shape (rows, columns, height, width), got {panel.shape}"
            )
    columns = max(min(_COLUMNS, len(panels)), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.05,
        vertical_spacing=0.12 / rows,
        subplot_titles=[literal(name) for name in panels],
    )
    largest = max(
        (float(np.abs(panel).max()) for panel in panels.values() if panel.size), default=0.0
    )
    for i, panel in enumerate(panels.values()):
        figure.add_heatmap(
            z=_mosaic(panel),
            zmin=-(largest or 1.0),
            zmax=largest or 1.0,
            colorscale=BLUE_TO_ORANGE,
            showscale=False,
            hovertemplate="%{z:.3g}<extra></extra>",
            hoverongaps=False,
            row=i // columns + 1,
            col=i % columns + 1,
        )
    finish(figure, **({"title": literal(title)} if title else {}))
    top = 84 if title else 40
    figure.update_layout(height=_PANEL * rows + top, margin_t=top)
    return as_matrices(figure)


def _mosaic(filters: npt.NDArray[Any]) -> list[list[float | None]]:
    """The filters where their positions are, with gaps of one cell."""
    rows, columns, height, width = filters.shape
    apart = np.full((rows, height + 1, columns, width + 1), np.nan)
    apart[:, :height, :, :width] = filters.transpose(0, 2, 1, 3)
    flat = apart.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
    return [[None if cell != cell else float(f"{cell:.4g}") for cell in row] for row in flat]
