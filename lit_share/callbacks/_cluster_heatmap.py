"""The picture of clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito, *Color Universal Design*, 2008, without black, on which numbers could not be read.
# Colour-blind readers can distinguish them, and the numbers tell more clusters apart.
_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
_SEPARATE = "#f0f0f0"


def cluster_heatmap(
    clusters: Mapping[str, Mapping[str, int]], title: str = "Clusters"
) -> go.Figure:
    """Draw which members of each tie are exactly equal.

    Args:
        clusters: For each tie, the number of each member's cluster by the member's name, as from
            `lit_share.ClusterReport.as_dict`.
        title: The figure's title.

    Returns:
        A Plotly figure of ties × members. Members of a cluster have one number and one colour, as
        has a cluster of the same members in other ties; members that equal no other are grey.

    Example:
        >>> weight = {"a.weight": 0, "b.weight": 1, "c.weight": 0}
        >>> figure = cluster_heatmap({"weight": weight})
        >>> list(figure.data[0].x), [list(row) for row in figure.data[0].text]
        (['a', 'b', 'c'], [['1', '', '1']])
    """
    # The import takes half a second, and only figures need it.
    import plotly.graph_objects as go

    # Clusters of the same members are one cluster in all ties.
    known: dict[tuple[int, ...], int] = {}
    cells = [_numbers(list(labels.values()), known) for labels in clusters.values()]
    colors = [_SEPARATE, *(_COLORS[i % len(_COLORS)] for i in range(len(known)))]
    most = max(len(colors) - 1, 1)
    heat = go.Heatmap(
        z=cells,
        x=[escape(name, quote=False) for name in _columns(clusters)],
        # Names are escaped because Plotly would render tags such as <b>.
        y=[escape(" ".join(tie.split()), quote=False) for tie in clusters],
        text=[[str(number or "") for number in row] for row in cells],
        texttemplate="%{text}",
        zmin=0,
        zmax=most,
        colorscale=[[i / most, color] for i, color in enumerate([*colors, colors[-1]][: most + 1])],
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_layout(
        template="plotly_white",
        title={"text": escape(title, quote=False), "font": {"size": 14}},
        margin={"l": 8, "r": 16, "t": 44, "b": 8},
        height=110 + 34 * max(len(clusters), 2),
        dragmode=False,
    )
    # Without "category", names that are numbers would be placed by their value.
    axis = {"type": "category", "automargin": True, "fixedrange": True, "showgrid": False}
    figure.update_xaxes(axis)
    figure.update_yaxes(axis, autorange="reversed")
    return figure


def _numbers(labels: Sequence[int], known: dict[tuple[int, ...], int]) -> list[int]:
    """Return the number of each member's cluster, counted from 1 in ``known``; 0 if it is alone."""
    sizes = Counter(labels)
    numbers = []
    for label in labels:
        number = 0
        if sizes[label] > 1:
            cluster = tuple(i for i, other in enumerate(labels) if other == label)
            number = known.setdefault(cluster, len(known) + 1)
        numbers.append(number)
    return numbers


def _columns(clusters: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the names of the columns: what members of a column have in common in all ties."""
    most = max((len(labels) for labels in clusters.values()), default=0)
    columns: list[str] = []
    for i in range(most):
        names = {_short(list(labels))[i] for labels in clusters.values() if len(labels) > i}
        columns.append(names.pop() if len(names) == 1 else str(i + 1))
    # Plotly would draw columns of one name in one place.
    if len(set(columns)) < most:
        return [str(i + 1) for i in range(most)]
    return columns


def _short(names: Sequence[str]) -> list[str]:
    """Return the components in which names of parameters differ; complete if there are none."""
    split = [name.split(".") for name in names]
    if len({len(components) for components in split}) > 1:
        return list(names)
    differ = [len(set(column)) > 1 for column in zip(*split, strict=True)]
    short: list[str] = []
    for components in split:
        kept = [c for c, differs in zip(components, differ, strict=True) if differs]
        short.append(".".join(kept) or ".".join(components))
    return short
