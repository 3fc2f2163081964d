"""The figures of paths of strengths, each of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lit_share.lab.plots import KnotPoint, Style, cluster_path, knot_path
from lit_share.lab.report._comparison import Row
from lit_share.lab.results import Result

# Of more ties, the page would draw rows that cannot be read.
MOST_TIES = 24


def path_figures(row: Row, style: Style, title: str) -> list[tuple[Any, str]]:
    """Draw the path of a row's first run that has one.

    Args:
        row: The runs of a strategy.
        style: Its style.
        title: The figure's title.

    Returns:
        Figures and descriptions: the path, and the number of clusters of ties of three members or
        more; empty if no run has walked a path.
    """
    walked = [run for run in row.runs if run.strength_path]
    if not walked:
        return []
    first = walked[0]
    path: Mapping[str, Any] = first.strength_path or {}
    knots: Sequence[Mapping[str, Any]] = path["knots"]
    points = [
        KnotPoint(knot["strength"], knot["score"], knot["error"], knot["distance"], _tied(knot))
        for knot in knots
    ]
    strength = knots[path["chosen"]]["strength"]
    text = f"{title}seed {first.seed}, strength {strength:.3g} chosen"
    if len(walked) > 1:
        same = sum(_chosen(run) == strength for run in walked)
        text += f"; the same in {same} of {len(walked)} seeds"
    # Knots of several runs have no common checkpoint to test, so one run is drawn as it was.
    drawn = knot_path(points, path["chosen"], style, path["score"], text)
    words = f"{path['score']} of one run of {row.strategy} over the strength"
    figures = [(drawn, words)]
    counts = {knot["strength"]: _several(first, knot["clusters"]) for knot in knots}
    if any(counts.values()):
        clusters = cluster_path(counts, f"{title}number of clusters")
        figures.append((clusters, f"number of clusters over the strength of {row.strategy}"))
    return figures


def _tied(knot: Mapping[str, Any]) -> float | None:
    if not knot["tied"]:
        return None
    return fmean(knot["tied"].values())


def _chosen(run: Result) -> float | None:
    if run.strength_path is None:
        return None
    chosen: float = run.strength_path["knots"][run.strength_path["chosen"]]["strength"]
    return chosen


def _several(run: Result, counts: Mapping[str, int]) -> dict[str, float]:
    """Return the counts of ties of three members or more."""
    several = [tie for tie, members in run.clusters.items() if len(members) > 2]
    return {tie: float(counts[tie]) for tie in several[:MOST_TIES] if tie in counts}
