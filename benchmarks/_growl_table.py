"""The table and the figure of `benchmarks.growl_images`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from lit_share.metrics import index_change

WITHIN = 0.003  # of the accuracy of `none`, on validation data
_COLUMNS = ("test", "sparsity", "sharing", "compression", "bytes")
LEVELS = (2, 4, 8, 15)
_SETTINGS = ("method", "strength", "ramp", "l2", "clusters", "block", "similarity")
_COLORS = {
    "correlated inputs": "#009E73",
    "correlated inputs + GrOWL": "#CC79A7",
    "correlated inputs + group lasso": "#8C564B",
    "blocks of pixels": "#7F7F7F",
    "group lasso": "#D55E00",
    "group lasso + l2": "#E69F00",
    "GrOWL": "#0072B2",
    "GrOWL + l2": "#56B4E9",
}

Row = dict[str, Any]
Setting = list[Row]  # the runs of one setting, a row for each seed


def settings_of(rows: Iterable[Row]) -> dict[str, list[Setting]]:
    """The runs of each setting, by method."""
    by_setting: dict[tuple[Any, ...], Setting] = defaultdict(list)
    for row in rows:
        by_setting[tuple(row[key] for key in _SETTINGS)].append(row)
    most = max(map(len, by_setting.values()))
    methods: dict[str, list[Setting]] = defaultdict(list)
    for (method, *_), runs in by_setting.items():
        if len(runs) == most:
            methods[method].append(runs)
    return dict(methods)


def average(runs: Setting, column: str) -> float:
    """The mean over runs."""
    return mean(row[column] for row in runs)


def chosen(settings: Sequence[Setting], least: float) -> Setting:
    """Return the setting of the highest compression of those accurate enough on validation data."""
    enough = [runs for runs in settings if average(runs, "validation") >= least]
    if not enough:
        return max(settings, key=lambda runs: average(runs, "validation"))
    # Without a penalty nothing is compressed, and validation data alone decide.
    return max(enough, key=lambda runs: (average(runs, "compression"), average(runs, "validation")))


def print_table(methods: dict[str, list[Setting]]) -> None:
    """Print a row for each method: mean ± deviation over runs."""
    (none,) = methods["none"]
    least = average(none, "validation") - WITHIN
    print(
        f"{'':32}{'strength':>9}{'ramp':>6}{'groups':>7}{'sim':>6}{'val':>8}"
        + "".join(f"{c:>17}" for c in _COLUMNS)
        + f"{'index change':>14}"
    )
    for method, settings in methods.items():
        runs = chosen(settings, least)
        first = runs[0]
        cells = [f"{average(runs, c):,.4g} ± {stdev(r[c] for r in runs):.2g}" for c in _COLUMNS]
        change = index_change(torch.tensor([row["selected"] for row in runs]))
        mark = "" if average(runs, "validation") >= least else " (not within 0.3 points)"
        print(
            f"{method:32}{first['strength'] or '-':>9}{first['ramp'] or '-':>6}"
            f"{first['clusters'] or first['block'] or '-':>7}{first['similarity'] or '-':>6}"
            f"{average(runs, 'validation'):>8.4f}"
            + "".join(f"{cell:>18}" for cell in cells)
            + f"{change:>14.4f}{mark}"
        )


def print_stability(methods: dict[str, list[Setting]]) -> None:
    """Print the index change at equal compression, with that of random sets of as many rows."""
    print(f"\n{'index change at':32}" + "".join(f"{f'{level} times':>24}" for level in LEVELS))
    for method, settings in methods.items():
        cells = []
        for level in LEVELS:
            near = min(
                settings, key=lambda runs: abs(math.log(average(runs, "compression") / level))
            )
            if abs(math.log(average(near, "compression") / level)) > 0.25:
                cells.append("")
                continue
            selections = torch.tensor([row["selected"] for row in near])
            cells.append(f"{index_change(selections):.4f} (chance {chance(selections):.2f})")
        if any(cells):
            print(f"{method:32}" + "".join(f"{cell:>24}" for cell in cells))


def chance(selections: torch.Tensor) -> float:
    """The expected index change of random sets of the same sizes."""
    sizes, n = selections.sum(1).tolist(), selections.shape[1]
    pairs = [(a, b) for i, a in enumerate(sizes) for b in sizes[i + 1 :] if a + b]
    return mean((a + b - 2 * a * b / n) / (a + b) for a, b in pairs) if pairs else 0.0


def write_curve(methods: dict[str, list[Setting]], path: Path, title: str) -> None:
    """Draw test accuracy against compression as SVG, for settings that lose at most five points."""
    (none,) = methods["none"]
    points = {
        method: [
            (average(runs, "compression"), average(runs, "test"))
            for runs in settings
            if average(runs, "test") >= average(none, "test") - 0.05
        ]
        for method, settings in methods.items()
        if method in _COLORS
    }
    compressions = [c for pairs in points.values() for c, _ in pairs]
    accuracies = [a for pairs in points.values() for _, a in pairs] + [average(none, "test")]
    low, high = math.floor(min(accuracies) * 100) / 100, math.ceil(max(accuracies) * 100) / 100
    most = math.log2(max(compressions) * 1.1)

    def x(compression: float) -> float:
        return 60 + 500 * math.log2(compression) / most

    def y(accuracy: float) -> float:
        return 320 - 280 * (accuracy - low) / (high - low)

    parts = [f'<text x="60" y="22" font-size="15">{title}</text>']
    for step in range(round((high - low) * 100) + 1):
        accuracy = low + step / 100
        parts.append(
            f'<line x1="60" x2="560" y1="{y(accuracy):.1f}" y2="{y(accuracy):.1f}" stroke="#ddd"/>'
        )
        parts.append(
            f'<text x="52" y="{y(accuracy) + 4:.1f}" text-anchor="end">{accuracy:.2f}</text>'
        )
    for power in range(int(most) + 1):
        parts.append(
            f'<text x="{x(2.0**power):.1f}" y="340" text-anchor="middle">{2**power}×</text>'
        )
    parts.append(
        '<text x="310" y="362" text-anchor="middle">'
        "compression (parameters / unique ones, log scale)</text>"
    )
    level = y(average(none, "test"))
    parts.append(
        f'<line x1="60" x2="560" y1="{level:.1f}" y2="{level:.1f}" '
        'stroke="#555" stroke-dasharray="5 4"/>'
    )
    parts.append(f'<text x="556" y="{level - 5:.1f}" text-anchor="end">none</text>')
    for i, (method, pairs) in enumerate(points.items()):
        color = _COLORS[method]
        parts += [
            f'<circle cx="{x(c):.1f}" cy="{y(a):.1f}" r="4" fill="{color}" fill-opacity="0.75"/>'
            for c, a in pairs
        ]
        parts.append(f'<circle cx="590" cy="{60 + 22 * i}" r="5" fill="{color}"/>')
        parts.append(f'<text x="602" y="{64 + 22 * i}">{method}</text>')
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 375" '
        'font-family="sans-serif" font-size="12">'
    )
    path.write_text(
        "\n".join([head, '<rect width="740" height="375" fill="white"/>', *parts, "</svg>"]) + "\n"
    )


def read(path: Path, data: str) -> list[Row]:
    """The runs of one data set that a file holds."""
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["data"] == data]
