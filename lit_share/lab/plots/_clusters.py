"""The similarities of a layer's rows, before and after the rows of each cluster are tied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._layout import as_matrices, finish
from lit_share.lab.plots._palette import BLUE_TO_ORANGE


def cluster_map(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    labels: Sequence[int],
    title: str = "",
    most: int = 200,
) -> go.Figure:
    r"""Draw the similarities of rows before and after clustering, sorted by cluster.

    .. math::
        S_{ij} = \frac{\langle w_i, w_j \rangle}{\max(\lVert w_i \rVert^2, \lVert w_j \rVert^2)}

    is the similarity that `lit_share.functional.cluster_rows` uses: 1 for equal, 0 for orthogonal
    and −1 for opposite rows.

    Args:
        before: The rows before clustering, shape (n, d).
        after: The rows after those of each cluster were tied, shape (n, d).
        labels: The cluster of each row, n integers; rows with −1 (zero rows) are not drawn.
        title: The figure's title.
        most: The largest number of rows to draw; of more rows, a subset that is even over the
            clusters.

    Returns:
        Two heat maps of rows × rows, the largest clusters first; clusters of several rows are
        outlined.

    Example:
        >>> rows = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]]
        >>> tied = [[0.75, 0.0], [0.0, 1.0], [0.75, 0.0], [0.0, 0.0]]
        >>> figure = cluster_map(rows, tied, [0, 1, 0, -1])
        >>> [list(row) for row in figure.data[0].z]
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    sizes = Counter(label for label in labels if label >= 0)
    order = sorted(
        (i for i, label in enumerate(labels) if label >= 0),
        key=lambda i: (-sizes[labels[i]], labels[i], i),
    )
    shown, count = order, f"{len(order):,} rows"
    # The maps have a number for each pair of rows: 5,000 rows would take about 250 MB of a page.
    if len(order) > most:
        shown = [order[i * len(order) // most] for i in range(most)]
        count = f"{len(shown)} of {count}"
    outlines = list(_outlines([labels[i] for i in shown]))
    figure = make_subplots(
        cols=2,
        horizontal_spacing=0.04,
        subplot_titles=[f"before: {count}", f"after: {len(sizes):,} clusters"],
    )
    for column, rows in enumerate((before, after), start=1):
        similarity = _similarity(np.asarray(rows, dtype=float)[shown])
        figure.add_heatmap(
            z=similarity.round(2).tolist(),
            coloraxis="coloraxis",
            hovertemplate="similarity %{z}<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=[x for x, _ in outlines],
            y=[y for _, y in outlines],
            mode="lines",
            line={"color": "#000000", "width": 1},
            hoverinfo="skip",
            row=1,
            col=column,
        )
    finish(figure, title=title, showlegend=False)
    # The titles of the panels are in the top margin, below the title of the figure.
    top = 40
    if title:
        top = 80
    figure.update_layout(height=400, coloraxis=_SIMILARITY, margin_t=top)
    return as_matrices(figure)


_SIMILARITY = {
    "cmin": -1.0,
    "cmax": 1.0,
    "colorscale": BLUE_TO_ORANGE,
    "colorbar": {"title": "similarity", "thickness": 12, "len": 0.9},
}


def _similarity(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    products = rows @ rows.T
    squares = np.diag(products)
    # Dividing by 1 instead of 0 makes two zero rows orthogonal, like a zero row and any other.
    largest = np.maximum(squares[:, None], squares[None, :])
    similarity: npt.NDArray[Any] = products / np.where(largest > 0.0, largest, 1.0)
    return similarity


def _outlines(labels: Sequence[int]) -> Iterator[tuple[float | None, float | None]]:
    """Yield (x, y) of a closed square around each run of 2 or more equal labels, then `None`s."""
    begin = 0
    for _, cluster in groupby(labels):
        end = begin + len(list(cluster))
        if end - begin > 1:
            # Cell i extends from i - 0.5 to i + 0.5. The point `None` interrupts the line, so that
            # one trace draws all squares.
            a, b = begin - 0.5, end - 0.5
            yield from ((a, a), (b, a), (b, b), (a, b), (a, a), (None, None))
        begin = end
