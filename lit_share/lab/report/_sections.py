"""Choose the figures of the page, and compute their data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean

import plotly.graph_objects as go

from lit_share.lab.plots import (
    Curve,
    Interval,
    Point,
    StrengthPath,
    Style,
    cluster_path,
    curves,
    intervals,
    member_clusters,
    score_against_size,
    strength_path,
    tied_heatmap,
)
from lit_share.lab.report._compare import best_of_each_seed
from lit_share.lab.report._comparison import Comparison, Row
from lit_share.lab.report._estimate import Estimate, estimate
from lit_share.lab.report._paths import path_figures
from lit_share.lab.report._settings import label, number, setting_of, varying
from lit_share.lab.results import Result

# A page with hundreds of figures would be slow; each run's result.json has the numbers of all ties.
MOST_TIES = 24
# Of more members, such as the positions of a layer, no names could be read.
MOST_MEMBERS = 40


@dataclass(frozen=True)
class Panel:
    """A figure, and a description for those who cannot see it."""

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
        key: The fragment in the page's address.
        title: The heading.
        lead: An explanation of the figures.
        groups: The figures by setting.
        missing: The reason why figures are missing, or empty.
        folded: Whether only the first group is open.
        legend: Whether the section needs a legend, because its figures have none.
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
    """Return all sections of the page, in order; those without data say why."""
    rows = _by_setting(comparison.rows)
    return [
        _scores(comparison, rows, styles),
        _strengths(comparison, rows, styles),
        _paths(rows, styles),
        _sizes(comparison, rows, styles),
        _over_numbers(comparison, styles),
        _distances(rows, styles),
        _learned(rows, styles),
        _tied(rows),
        _clusters(rows),
        _costs(rows, styles),
    ]


def _by_setting(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows that have runs, by a label of what differs between their settings."""
    rows = list(rows)
    settings = [setting_of(row.tried[0]) for row in rows]
    # Values that all settings have in common would only lengthen the titles.
    keys = varying(settings)
    found: dict[str, list[Row]] = defaultdict(list)
    for row, setting in zip(rows, settings, strict=True):
        # A row whose runs all failed has nothing to draw.
        if row.runs:
            found[label(setting, keys)].append(row)
    return found


def _scores(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    metric = comparison.metric
    groups = []
    for title, members in rows.items():
        points = {}
        for row in members:
            point = _interval(row.score, [run.test[metric] for run in row.runs])
            if point is not None:
                points[row.strategy] = point
        names = ", ".join(dict.fromkeys(row.strategy for row in members))
        figure = intervals(points, styles, metric, title)
        groups.append(Group(title, [Panel(figure, f"{metric} of {names}")]))
    lead = f"Mean {metric} on test data and its 95 % interval; small open markers are the seeds."
    missing = _if_empty(groups, "No run has finished.")
    return Section("scores", "Scores", lead, groups, missing)


def _if_empty(groups: Sequence[Group], reason: str) -> str:
    return "" if groups else reason


def _strengths(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    metric = comparison.metric
    groups = []
    for title, members in rows.items():
        paths = {row.strategy: path for row in members if (path := _path(row, metric))}
        others = {}
        for row in members:
            # Strategies without a strength, such as the baseline, are drawn for comparison.
            if row.score is not None and all(run.strength is None for run in row.runs):
                others[row.strategy] = (row.score.mean, row.distance)
        if paths:
            figure = strength_path(paths, styles, metric, others, title)
            words = f"{metric} and relative distance over the strength of {', '.join(paths)}"
            groups.append(Group(title, [Panel(figure, words)]))
    lead = (
        f"Mean {metric} on test data and its 95 % interval over the strengths tried; below it the "
        "distance between tied parameters, which is 0 if they are equal. Filled markers are "
        "strengths that validation data chose, larger for more seeds; level lines are strategies "
        "without a strength."
    )
    missing = "No strategy was tried with several strengths: try for instance strength=0.01,0.1,1."
    return Section("strengths", "Strength", lead, groups, _if_empty(groups, missing))


def _paths(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    groups = []
    for title, members in rows.items():
        panels = []
        for row in members:
            name = _joined(title, f"{row.strategy}: ")
            drawn = path_figures(row, styles[row.strategy], name)
            panels += [Panel(figure, words) for figure, words in drawn]
        if panels:
            groups.append(Group(title, panels))
    lead = (
        "The strengths that one run has walked upward, each from the weights of the one before: "
        "the score on validation data with bars of one standard error, and below it how equal the "
        "tied parameters were. The filled marker is the strength whose weights were tested."
    )
    reason = "No run has walked a path of strengths: try strength=path."
    return Section("paths", "Paths in one run", lead, groups, _if_empty(groups, reason))


def _sizes(comparison: Comparison, rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    metric = comparison.metric
    groups = []
    for title, members in rows.items():
        points, others = [], []
        for row in members:
            points.append(_point(row.strategy, row.runs, metric))
            others += [_point(row.strategy, runs, metric) for runs in _by_strength(row)]
        # Runs that have not counted their parameters have no point.
        known, known_others = list(filter(None, points)), list(filter(None, others))
        if known:
            figure = score_against_size(
                known, styles, metric, comparison.better, known_others, title
            )
            words = f"{metric} over the number of unique parameters"
            groups.append(Group(title, [Panel(figure, words)]))
    lead = (
        "Unique parameters are numbers other than zero, where those count once that are exactly "
        "equal in members of a tie: also weights that started equal and never had a gradient, as "
        "of pixels that are always black. Compact files store whole tensors or rows once, so they "
        "may be larger. Filled markers are the runs chosen on validation data, small open markers "
        "the means of all strengths tried. "
    )
    if comparison.better:
        lead += (
            "Ringed markers, joined by the dotted line, are the Pareto front: no other point is "
            "at most as large and at least as good."
        )
    else:
        lead += f"No front is marked: it is unknown whether large or small {metric} is better."
    missing = _if_empty(groups, "No finished run has counted its parameters.")
    return Section("sizes", "Score and size", lead, groups, missing)


def _over_numbers(comparison: Comparison, styles: Styles) -> Section:
    metric = comparison.metric
    settings = [(row, setting_of(row.tried[0])) for row in comparison.rows]
    keys = varying(setting for _, setting in settings)
    groups = []
    for key in keys:
        # Everything else must be equal along a curve, so each other setting is a figure.
        lines: dict[str, dict[str, dict[float, Estimate]]] = defaultdict(lambda: defaultdict(dict))
        for row, setting in settings:
            at = number(setting.get(key, ""))
            if at is not None and row.score is not None:
                lines[label(setting, [k for k in keys if k != key])][row.strategy][at] = row.score
        panels = []
        for others, strategies in lines.items():
            if len(set().union(*strategies.values())) < 2:
                continue
            drawn = {strategy: _curve(scores) for strategy, scores in strategies.items()}
            figure = curves(drawn, styles, key, metric, others)
            panels.append(Panel(figure, f"{metric} over {key}, one line per strategy"))
        if panels:
            groups.append(Group(f"over {key}", panels))
    missing = "No numeric override has several values: try for instance data.n_b=20,50,150."
    lead = f"Mean {metric} and its 95 % interval over each number varied on the command line."
    return Section("curves", "Curves", lead, groups, _if_empty(groups, missing))


def _distances(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    lead = (
        "The distance between the members of each tie, relative to their size: 0 is equal, about 1 "
        "unrelated. Mean over the seeds of the chosen runs; epoch 0 is before training."
    )
    reason = "No run has a history of distances: the SharingMonitor callback keeps one."
    courses = _courses(rows, styles, "distances", "relative distance")
    return _folded("distances", "Distances during training", lead, courses, reason)


def _learned(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    lead = (
        "The strength that each tie has learned from validation data, on a logarithmic axis. Mean "
        "over the seeds of the chosen runs; epoch 0 is before training."
    )
    reason = "No run has learned its strengths: try strength=learned."
    courses = _courses(rows, styles, "strengths", "strength")
    for panel in chain.from_iterable(group.panels for group in courses[0]):
        panel.figure.update_layout(yaxis_rangemode="normal", yaxis_type="log")
    return _folded("learned", "Learned strengths", lead, courses, reason)


def _courses(
    rows: Mapping[str, list[Row]], styles: Styles, field: str, unit: str
) -> tuple[list[Group], int]:
    """Draw a number of each tie over epochs; return the figures, and how many ties have none."""
    groups, left_out = [], 0
    for title, members in rows.items():
        by_tie: dict[str, dict[str, Curve]] = defaultdict(dict)
        for row in members:
            courses: list[dict[str, list[float]]] = [getattr(run, field) for run in row.runs]
            # Runs may have different ties; a dict keeps the order of the network.
            for tie in dict.fromkeys(chain.from_iterable(courses)):
                histories = [own[tie] for own in courses if own.get(tie)]
                if histories:
                    # The mean ends with the shortest run, because it would jump there.
                    means = [fmean(values) for values in zip(*histories, strict=False)]
                    by_tie[tie][row.strategy] = Curve(range(len(means)), means)
        panels = []
        for tie, lines in list(by_tie.items())[:MOST_TIES]:
            figure = curves(lines, styles, "epoch", unit, tie, markers=False)
            # There are many small figures, so the section has the legend.
            figure.update_layout(showlegend=False, yaxis_rangemode="tozero")
            panels.append(Panel(figure, f"{unit} of {tie} over epochs, one line per strategy"))
        left_out = max(left_out, len(by_tie) - MOST_TIES)
        if panels:
            groups.append(Group(title, panels))
    return groups, left_out


def _folded(
    key: str, title: str, lead: str, courses: tuple[list[Group], int], reason: str
) -> Section:
    groups, left_out = courses
    missing = _if_empty(groups, reason)
    if left_out > 0:
        missing = f"{left_out} more ties are not drawn; result.json of each run has them all."
    return Section(key, title, lead, groups, missing, folded=True, legend=True)


def _tied(rows: Mapping[str, list[Row]]) -> Section:
    groups = []
    for title, members in rows.items():
        tied = {}
        for row in members:
            fractions = _mean_by_name(run.tied for run in row.runs)
            if fractions:
                tied[row.strategy] = fractions
        if tied:
            panel = Panel(tied_heatmap(tied, title), "fraction of each tie that is equal")
            groups.append(Group(title, [panel]))
    lead = (
        "The fraction of each tie's elements in which all members are exactly equal in the tested "
        "model, mean over seeds. Weights that started equal and never had a gradient are equal "
        "under every strategy."
    )
    reason = "No run has counted equal elements: older results and single models have none."
    return Section("tied", "What became equal", lead, groups, _if_empty(groups, reason))


def _clusters(rows: Mapping[str, list[Row]]) -> Section:
    groups = []
    separate: dict[str, None] = {}
    for title, members in rows.items():
        panels = []
        for row in members:
            own = _cluster_panels(row, title)
            panels += own
            if not own and any(map(_several, row.tried)):
                separate[row.strategy] = None
        if panels:
            groups.append(Group(title, panels))
    lead = (
        "Members of one number and colour are exactly equal in the tested model, grey ones equal "
        "no other; a number stands for the same members in all ties. Beside it, the number of "
        "clusters of each tie over the strengths tried, mean over seeds: 1 if all members are "
        "equal."
    )
    missing = ""
    if separate:
        start = "No members are equal"
        if len(rows) > 1:
            start = "In some settings no members are equal"
        missing = f"{start} after {', '.join(separate)}."
    elif not groups:
        missing = f"No run ties three to {MOST_MEMBERS} members: pairs are in the section above."
    return Section("clusters", "Who shares with whom", lead, groups, missing)


def _cluster_panels(row: Row, setting: str) -> list[Panel]:
    """Draw a row's clusters of the first seed, and their number over the strengths.

    Return no panels if no members are equal in any run.
    """
    counts = [_counts(run) for run in row.tried]
    members = [{tie: len(labels) for tie, labels in _several(run).items()} for run in row.tried]
    if counts == members:
        return []
    first = row.runs[0]
    drawn = _several(first)
    run = f"seed {first.seed}"
    if first.strength is not None:
        run += f", strength {first.strength:g}"
    others = [_several(other) for other in row.runs[1:]]
    if others:
        run += f"; the same in {1 + others.count(drawn)} of {len(row.runs)} seeds"
    words = f"which members of each tie are equal after {row.strategy}"
    panels = [Panel(member_clusters(drawn, run, _joined(setting, row.strategy)), words)]
    path: dict[float, dict[str, float]] = {}
    for runs in _by_strength(row):
        if runs[0].strength is not None:
            path[runs[0].strength] = _mean_by_name(map(_counts, runs))
    if path:
        figure = cluster_path(path, _joined(setting, f"{row.strategy}: number of clusters"))
        panels.append(Panel(figure, f"number of clusters over the strength of {row.strategy}"))
    return panels


def _joined(setting: str, title: str) -> str:
    return f"{setting}: {title}" if setting else title


def _counts(run: Result) -> dict[str, float]:
    """Return the number of clusters of each tie of three members or more."""
    return {tie: len(set(labels.values())) for tie, labels in _several(run).items()}


def _several(run: Result) -> dict[str, dict[str, int]]:
    """Return the clusters of the first ties of three members or more."""
    several = {t: c for t, c in run.clusters.items() if 3 <= len(c) <= MOST_MEMBERS}
    return dict(list(several.items())[:MOST_TIES])


def _costs(rows: Mapping[str, list[Row]], styles: Styles) -> Section:
    quantities: list[tuple[str, str, str, Callable[[Result], float | None]]] = [
        ("Memory for training", "bytes", ",.0f", lambda run: run.training_bytes),
        ("Compact file", "bytes", ",.0f", lambda run: run.file_bytes),
        ("Time for training", "seconds", ".3g", lambda run: run.seconds),
    ]
    groups = []
    missing = [name for name, *_ in quantities]
    for title, members in rows.items():
        panels = []
        for name, unit, spec, read in quantities:
            points = {}
            for row in members:
                values = [value for run in row.runs if (value := read(run)) is not None]
                # The text shows the mean alone, because margins of bytes have many digits.
                point = _interval(estimate(values), values, spec)
                if point is not None:
                    points[row.strategy] = point
            if points:
                missing = [other for other in missing if other != name]
                # An axis from 0 shows by which factor costs differ.
                figure = intervals(points, styles, unit, name, from_zero=True)
                panels.append(Panel(figure, f"{name} in {unit}, by strategy"))
        if panels:
            groups.append(Group(title, panels))
    lead = (
        "Memory counts parameters, gradients and optimizer state once each, without activations; "
        "the compact file is the output of save_compact without its header."
    )
    reason = ""
    if missing:
        reason = f"Not measured by these runs: {', '.join(missing)}."
    return Section("costs", "Memory, bytes and time", lead, groups, reason, folded=True)


def _interval(
    found: Estimate | None, values: Sequence[float], spec: str | None = None
) -> Interval | None:
    if found is None:
        return None
    text = str(found)
    if spec is not None:
        text = format(fmean(values), spec)
    return Interval(found.mean, found.low, found.high, text, values)


def _point(strategy: str, runs: Sequence[Result], metric: str) -> Point | None:
    """Return the runs' mean parameter count and score; `None` if either is unknown for all."""
    sizes = [run.sharing["unique"] for run in runs if run.sharing.get("unique") is not None]
    score = _interval(estimate([run.test[metric] for run in runs]), ())
    if not sizes or score is None:
        return None
    text = strategy
    # Validation data may choose another strength for each seed.
    strengths = sorted({run.strength for run in runs if run.strength is not None})
    if strengths:
        text += f", strength {', '.join(f'{strength:g}' for strength in strengths)}"
    return Point(strategy, fmean(sizes), score, text)


def _path(row: Row, metric: str) -> StrengthPath | None:
    """Return a row's scores and distances by strength; `None` for fewer than two strengths."""
    scores: dict[float, Estimate] = {}
    distances: dict[float, Estimate] = {}
    for runs in _by_strength(row):
        at, score = runs[0].strength, estimate([run.test[metric] for run in runs])
        if at is None or score is None:
            continue
        scores[at] = score
        # Single models have no distance.
        known = [run.sharing.get("distance") for run in runs]
        distance = estimate([value for value in known if value is not None])
        if distance is not None:
            distances[at] = distance
    if len(scores) < 2:
        return None
    chosen = [run.strength for run in row.runs if run.strength is not None]
    return StrengthPath(_curve(scores), _curve(distances) if distances else None, chosen)


def _by_strength(row: Row) -> list[list[Result]]:
    """Return for each strength, in order, each seed's best finished run; `[]` for fewer than 2."""
    by_strength = defaultdict(list)
    for run in row.tried:
        if run.failure is None:
            by_strength[run.strength].append(run)
    # A single strength has the runs that are drawn as chosen.
    if len(by_strength) < 2:
        return []
    strengths = sorted(by_strength, key=lambda strength: strength or 0.0)
    # Other tuned keys are chosen for each strength.
    return [[*best_of_each_seed(by_strength[at]).values()] for at in strengths]


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
