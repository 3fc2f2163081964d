"""The figures of the page, made of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import plotly.graph_objects as go

from lit_share.lab.plots import (
    Curve,
    Interval,
    Point,
    StrengthPath,
    Style,
    curves,
    intervals,
    score_against_size,
    strength_path,
    tied_heatmap,
)
from lit_share.lab.report._compare import best_of_each_seed
from lit_share.lab.report._comparison import Comparison, Row
from lit_share.lab.report._estimate import Estimate, estimate
from lit_share.lab.report._settings import label, number, setting_of, varying
from lit_share.lab.results import Result

# Of a deep network the first layers are drawn; the numbers of all are in each run's result.json.
MOST_TIES = 24


@dataclass(frozen=True)
class Panel:
    """One figure, and what it shows in words, for those who cannot see it."""

    figure: go.Figure
    words: str


@dataclass(frozen=True)
class Group:
    """The figures of one setting."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: Its name in the page's address.
        title: Its heading.
        lead: What is drawn.
        groups: The figures by setting.
        missing: Why there are no figures, or not all.
        folded: Whether only the first group is open.
        legend: Whether the strategies' colours have to be said, because the figures do not.
    """

    key: str
    title: str
    lead: str
    groups: Sequence[Group] = ()
    missing: str = ""
    folded: bool = False
    legend: bool = field(default=False, kw_only=True)


Styles = Mapping[str, Style]


def sections(comparison: Comparison, styles: Styles) -> list[Section]:
    """All parts of the page that have figures, in their order; those without data say why.

    Args:
        comparison: What is shown.
        styles: How each strategy looks.

    Returns:
        The sections.
    """
    rows = _by_setting(comparison.rows)
    return [
        _scores(comparison, rows, styles),
        _strengths(comparison, rows, styles),
        _sizes(comparison, rows, styles),
        _over_numbers(comparison, styles),
        _distances(rows, styles),
        _tied(rows),
        _costs(rows, styles),
    ]


def _by_setting(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that have runs, by what they have in common, in words."""
    rows = list(rows)
    settings = [setting_of(row.tried[0]) for row in rows]
    keys = varying(settings)
    found: dict[str, list[Row]] = defaultdict(list)
    for row, setting in zip(rows, settings, strict=True):
        if row.runs:
            found[label(setting, keys)].append(row)
    return found


def _scores(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    groups = []
    for title, members in rows.items():
        points = {
            row.strategy: _interval(row.score, [run.test[comparison.metric] for run in row.runs])
            for row in members
        }
        figure = intervals({k: v for k, v in points.items() if v}, styles, comparison.metric, title)
        groups.append(Group(title, [Panel(figure, f"{comparison.metric} of {', '.join(points)}")]))
    lead = f"Mean {comparison.metric} on test data and its 95 % interval; small open markers are the seeds."
    return Section("scores", "Scores", lead, groups, "" if groups else "No run has finished.")


def _strengths(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    groups = []
    for title, members in rows.items():
        paths = {row.strategy: path for row in members if (path := _path(row, comparison.metric))}
        others = {
            row.strategy: (row.score.mean, row.distance)
            for row in members
            if row.score is not None and all(run.strength is None for run in row.runs)
        }
        if paths:
            figure = strength_path(paths, styles, comparison.metric, others, title)
            words = (
                f"{comparison.metric} and relative distance over the strength of {', '.join(paths)}"
            )
            groups.append(Group(title, [Panel(figure, words)]))
    lead = (
        f"Mean {comparison.metric} on test data and its 95 % interval over the strengths tried; below it the distance "
        "between tied parameters, of which 0 is equal. Filled markers are strengths that validation data chose, "
        "larger ones for more seeds; level lines are strategies without a strength."
    )
    missing = (
        ""
        if groups
        else "No strategy was tried with several strengths; strength=0.01,0.1,1 for instance does."
    )
    return Section("strengths", "Strength", lead, groups, missing)


def _sizes(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    groups = []
    for title, members in rows.items():
        points = [
            point for row in members if (point := _point(row.strategy, row.runs, comparison.metric))
        ]
        others = [
            point
            for row in members
            for runs in _not_chosen(row)
            if (point := _point(row.strategy, runs, comparison.metric))
        ]
        if points:
            figure = score_against_size(
                points, styles, comparison.metric, comparison.better, others, title
            )
            groups.append(
                Group(
                    title,
                    [Panel(figure, f"{comparison.metric} over the number of unique parameters")],
                )
            )
    lead = (
        "Unique parameters are the numbers that have to be stored: not zero, and equal ones once. "
        "Filled markers are the runs chosen on validation data, small open ones the means of all strengths tried."
    )
    if comparison.better:
        lead += " Ringed markers, joined by the dotted line, are the Pareto front: no other is as small and as good."
    else:
        lead += f" No front is marked: it is not known whether {comparison.metric} is to be large or small."
    return Section(
        "sizes",
        "Score and size",
        lead,
        groups,
        "" if groups else "No finished run has counted its parameters.",
    )


def _over_numbers(comparison: Comparison, styles: Styles) -> Section:
    settings = [(row, setting_of(row.tried[0])) for row in comparison.rows]
    keys = varying(setting for _, setting in settings)
    groups = []
    for key in keys:
        lines: dict[str, dict[str, dict[float, Estimate]]] = defaultdict(lambda: defaultdict(dict))
        for row, setting in settings:
            at = number(setting.get(key, ""))
            if at is not None and row.score is not None:
                lines[label(setting, [k for k in keys if k != key])][row.strategy][at] = row.score
        panels = []
        for others, strategies in lines.items():
            if len({at for scores in strategies.values() for at in scores}) < 2:
                continue
            drawn = {strategy: _curve(scores) for strategy, scores in strategies.items()}
            figure = curves(drawn, styles, key, comparison.metric, others)
            panels.append(Panel(figure, f"{comparison.metric} over {key}, one line per strategy"))
        if panels:
            groups.append(Group(f"over {key}", panels))
    missing = (
        ""
        if groups
        else "No numeric override has several values; data.n_b=20,50,150 for instance gives a curve."
    )
    lead = (
        f"Mean {comparison.metric} and its 95 % interval over what was varied on the command line."
    )
    return Section("curves", "Curves", lead, groups, missing)


def _distances(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    groups, left_out = [], 0
    for title, members in rows.items():
        by_tie: dict[str, dict[str, Curve]] = defaultdict(dict)
        for row in members:
            for tie in dict.fromkeys(tie for run in row.runs for tie in run.distances):
                histories = [run.distances[tie] for run in row.runs if run.distances.get(tie)]
                if histories:
                    # As far as all seeds were trained: the mean would jump where one stopped early.
                    means = [fmean(values) for values in zip(*histories, strict=False)]
                    by_tie[tie][row.strategy] = Curve(range(len(means)), means)
        panels = []
        for tie, lines in list(by_tie.items())[:MOST_TIES]:
            figure = curves(lines, styles, "epoch", "relative distance", tie, markers=False)
            figure.update_layout(showlegend=False, yaxis_rangemode="tozero")
            panels.append(Panel(figure, f"distance of {tie} over epochs, one line per strategy"))
        left_out = max(left_out, len(by_tie) - MOST_TIES)
        if panels:
            groups.append(Group(title, panels))
    missing = (
        ""
        if groups
        else "No run has a history of distances: the SharingMonitor callback keeps one."
    )
    if left_out:
        missing = f"{left_out} more ties are not drawn; result.json of each run has them all."
    lead = (
        "How far the members of each tie are apart, relative to their size: 0 is equal, about 1 unrelated. "
        "Mean over the seeds of the chosen runs; epoch 0 is the start."
    )
    return Section(
        "distances", "Distances during training", lead, groups, missing, folded=True, legend=True
    )


def _tied(rows: Mapping[str, list[Row]]) -> Section:
    groups = []
    for title, members in rows.items():
        tied = {
            row.strategy: _mean_by_name(run.tied for run in row.runs if run.tied) for row in members
        }
        tied = {strategy: fractions for strategy, fractions in tied.items() if fractions}
        if tied:
            groups.append(
                Group(
                    title, [Panel(tied_heatmap(tied, title), "fraction of each tie that is equal")]
                )
            )
    lead = (
        "The fraction of each tie's positions in which all members are exactly equal in the tested model, mean over "
        "seeds. Weights that no gradient has reached since a common start are equal under every strategy."
    )
    missing = (
        ""
        if groups
        else "No run has counted equal positions: results of older versions, and single models, have none."
    )
    return Section("tied", "What became equal", lead, groups, missing)


def _costs(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    quantities: list[tuple[str, str, Callable[[Result], float | None]]] = [
        ("Memory for training", "bytes", lambda run: run.training_bytes),
        ("Compact file", "bytes", lambda run: run.sharing.get("bytes")),
        ("Time for training", "seconds", lambda run: run.seconds),
    ]
    groups = []
    absent = {name for name, _, _ in quantities}
    for title, members in rows.items():
        panels = []
        for name, unit, read in quantities:
            points = {}
            for row in members:
                values = [value for run in row.runs if (value := read(run)) is not None]
                if values:
                    found = estimate(values)
                    text = f"{fmean(values):,.0f}" if unit == "bytes" else f"{fmean(values):.3g}"
                    points[row.strategy] = _interval(found, values, text)
            drawn = {strategy: point for strategy, point in points.items() if point}
            if drawn:
                absent.discard(name)
                figure = intervals(drawn, styles, unit, name, from_zero=True)
                panels.append(Panel(figure, f"{name} in {unit}, by strategy"))
        if panels:
            groups.append(Group(title, panels))
    lead = (
        "Memory is that of parameters, gradients and optimizer state, each number once, without activations; "
        "the compact file is what save_compact writes, without its header."
    )
    names = [name for name, _, _ in quantities if name in absent]
    missing = f"Not measured by these runs: {', '.join(names)}." if names else ""
    return Section("costs", "Memory, bytes and time", lead, groups, missing, folded=True)


def _interval(
    found: Estimate | None, values: Sequence[float], text: str | None = None
) -> Interval | None:
    if found is None:
        return None
    return Interval(found.mean, found.low, found.high, str(found) if text is None else text, values)


def _point(strategy: str, runs: Sequence[Result], metric: str) -> Point | None:
    """The mean of some runs; `None` if they have not counted their parameters."""
    sizes = [run.sharing["unique"] for run in runs if run.sharing.get("unique") is not None]
    score = _interval(estimate([run.test[metric] for run in runs]), ())
    if not sizes or score is None:
        return None
    strengths = sorted({run.strength for run in runs if run.strength is not None})
    text = (
        f"{strategy}, strength {', '.join(f'{s:g}' for s in strengths)}" if strengths else strategy
    )
    return Point(strategy, fmean(sizes), score, text)


def _path(row: Row, metric: str) -> StrengthPath | None:
    """Score and distance over strengths; `None` if there are not several."""
    tried = {runs[0].strength: runs for runs in _not_chosen(row)}
    runs_of = {strength: runs for strength, runs in tried.items() if strength is not None}
    if len(runs_of) < 2:
        return None
    scores = {
        at: found
        for at, runs in runs_of.items()
        if (found := estimate([run.test[metric] for run in runs]))
    }
    distances = {
        at: found for at, runs in runs_of.items() if (found := estimate(_known_distances(runs)))
    }
    chosen = [run.strength for run in row.runs if run.strength is not None]
    return StrengthPath(_curve(scores), _curve(distances) if distances else None, chosen)


def _known_distances(runs: Iterable[Result]) -> list[float]:
    return [distance for run in runs if (distance := run.sharing.get("distance")) is not None]


def _not_chosen(row: Row) -> list[list[Result]]:
    """The finished runs of each strength, where several were tried: one per seed, the best in what else is tuned."""
    by_strength = defaultdict(list)
    for run in row.tried:
        if run.failure is None:
            by_strength[run.strength].append(run)
    strengths = sorted(by_strength, key=lambda strength: strength or 0.0)
    return (
        [[*best_of_each_seed(by_strength[at]).values()] for at in strengths]
        if len(strengths) > 1
        else []
    )


def _curve(scores: Mapping[float, Estimate]) -> Curve:
    at = sorted(scores)
    found = [scores[x] for x in at]
    return Curve(at, [e.mean for e in found], [e.low for e in found], [e.high for e in found])


def _mean_by_name(mappings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values = defaultdict(list)
    for mapping in mappings:
        for name, value in mapping.items():
            values[name].append(value)
    return {name: fmean(found) for name, found in values.items()}
