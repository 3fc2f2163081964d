"""The map of clusters: how alike a layer's rows are, before and after those of a cluster became one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lit_share.lab.plots._layout import as_matrices, finish, literal
from lit_share.lab.plots._palette import BLUE_TO_ORANGE


def cluster_map(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    labels: Sequence[int],
    title: str = "",
    most: int = 200,
) -> go.Figure:
    r"""Draw how alike rows are, before and after clustering, in the order of their clusters.

    .. math::
        S_{ij} = \frac{\langle w_i, w_j \rangle}{\max(\lVert w_i \rVert^2, \lVert w_j \rVert^2)}

    is what clusters are made by (see `lit_share.functional.cluster_rows`): 1 for equal rows, 0 for orthogonal and −1
    for opposite ones.

    Args:
        before: The rows, of shape (n, d).
        after: The rows with those of a cluster made one, (n, d).
        labels: The cluster of each row, n whole numbers; rows of −1, which are zero, are left out.
        title: The figure's title.
        most: Of more rows than this, as many are drawn, evenly over the clusters.

    Returns:
        Two maps of rows × rows, the largest clusters first; a line is around the clusters of several rows.

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
    shown = [order[i * len(order) // most] for i in range(most)] if len(order) > most else order
    outlines = list(_outlines([labels[i] for i in shown]))
    of = (
        f"{len(shown)} of {len(order):,} rows"
        if len(shown) < len(order)
        else f"{len(order):,} rows"
    )
    figure = make_subplots(
        cols=2,
        horizontal_spacing=0.04,
        subplot_titles=[f"before: {of}", f"after: {len(sizes):,} clusters"],
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
    finish(figure, **({"title": literal(title)} if title else {}), showlegend=False)
    figure.update_layout(height=400, coloraxis=_SIMILARITY, margin_t=80 if title else 40)
    return as_matrices(figure)


_SIMILARITY = {
    "cmin": -1.0,
    "cmax": 1.0,
    "colorscale": BLUE_TO_ORANGE,
    "colorbar": {"title": "similarity", "thickness": 12, "len": 0.9},
}


def _similarity(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The similarities of all pairs of rows; that of two rows of zeros is 0."""
    products = rows @ rows.T
    squares = np.diag(products)
    largest = np.maximum(squares[:, None], squares[None, :])
    similarity: npt.NDArray[Any] = products / np.where(largest > 0.0, largest, 1.0)
    return similarity


def _outlines(labels: Sequence[int]) -> Iterator[tuple[float | None, float | None]]:
    """Squares around the clusters of several rows, as one line with gaps."""
    begin = 0
    for _, members in groupby(labels):
        end = begin + len(list(members))
        if end - begin > 1:
            a, b = begin - 0.5, end - 0.5
            yield from ((a, a), (b, a), (b, b), (a, b), (a, a), (None, None))
        begin = end
