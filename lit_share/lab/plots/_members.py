"""The members of each tie, coloured by cluster, on the page."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from lit_share.lab.plots._layout import finish


def member_clusters(
    clusters: Mapping[str, Mapping[str, int]], run: str = "", title: str = ""
) -> go.Figure:
    """Draw `lit_share.callbacks.cluster_heatmap` in the layout of the page.

    Args:
        clusters: For each tie, the number of each member's cluster by the member's name.
        run: The run that is drawn, below the figure.
        title: The figure's title.

    Returns:
        A heat map with a row per tie, in the order of the network, and a column per member.

    Example:
        >>> figure = member_clusters({"w": {"a.w": 0, "b.w": 0, "c.w": 1}}, "seed 0", "none")
        >>> figure.layout.title.text, figure.layout.xaxis.title.text
        ('none', 'seed 0')
    """
    # Callbacks import Lightning, which takes seconds, and other figures do without.
    from lit_share.callbacks import cluster_heatmap

    figure = cluster_heatmap(clusters)
    return finish(figure, x=run, title=title, height=130 + 34 * max(len(clusters), 2))
