"""The README's table and figure of shared positions: `python -m benchmarks.position_sharing DIR`.

DIR is the sweep directory of `python train.py -m experiment=position_sharing`. The figure needs
kaleido and a Chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from plotly.subplots import make_subplots

from lit_share.lab.plots import Curve, curves, styles
from lit_share.lab.report import Estimate, compare, estimate
from lit_share.lab.results import Result, read_results

NAMES = {"none": "locally connected", "soft_tie": "softly tied", "hard_tie": "convolution"}
PLACES = {"random": "at random places", "centre": "in the centre"}

Cells = dict[tuple[str, int, str], list[Result]]


def chosen(folders: list[Path]) -> Cells:
    """The runs that validation data chose, one per seed, by place, training images and strategy."""
    cells: Cells = {}
    for row in compare(read_results(folders)).rows:
        for run in row.runs:
            setting = dict(override.split("=", 1) for override in run.overrides)
            cell = setting["data.place"], int(setting["data.n_train"]), row.strategy
            cells.setdefault(cell, []).append(run)
    return cells


def score(runs: list[Result], metric: str) -> Estimate:
    """A test metric over seeds."""
    found = estimate([run.test[metric] for run in runs])
    assert found is not None
    return found


def print_table(cells: Cells) -> None:
    """Print it as Markdown."""
    print(
        "| digits | training images | | test accuracy | shift consistency | unique numbers | "
        "bytes |"
    )
    print("|---|---|---|---|---|---|---|")
    for place in PLACES:
        for size in sorted({n for _, n, _ in cells}):
            for strategy, name in NAMES.items():
                runs = cells[place, size, strategy]
                unique, size_of_file = (
                    sum(r.sharing[key] for r in runs) / len(runs) for key in ("unique", "bytes")
                )
                accuracy, consistency = (
                    score(runs, "test/acc"),
                    score(runs, "test/shift_consistency"),
                )
                print(
                    f"| {PLACES[place]} | {size} | {name} | {accuracy.mean:.3f} ± "
                    f"{accuracy.margin or 0:.3f} | {consistency.mean:.2f} | {unique:,.0f} | "
                    f"{size_of_file:,.0f} |"
                )


def write_figure(cells: Cells, path: Path) -> None:
    """Draw test accuracy over training images, a panel for each place."""
    looks = styles(NAMES)
    figure = make_subplots(
        cols=2, shared_yaxes=True, subplot_titles=[f"Digits {text}" for text in PLACES.values()]
    )
    for column, place in enumerate(PLACES, start=1):
        lines = {}
        for strategy in NAMES:
            points = {
                n: score(runs, "test/acc")
                for (p, n, s), runs in sorted(cells.items())
                if (p, s) == (place, strategy)
            }
            means, lows, highs = zip(
                *((e.mean, e.low, e.high) for e in points.values()), strict=True
            )
            lines[strategy] = Curve(list(points), means, lows, highs)
        for trace in curves(lines, looks, "training images", "test accuracy").data:
            trace.update(
                name=NAMES.get(trace.name, trace.name),
                showlegend=bool(trace.showlegend is None and column == 1),
            )
            figure.add_trace(trace, row=1, col=column)
    sizes = sorted({n for _, n, _ in cells})
    figure.update_xaxes(
        title="training images", type="log", tickvals=sizes, ticktext=[str(n) for n in sizes]
    )
    figure.update_yaxes(title="test accuracy", col=1)
    figure.update_layout(
        template="plotly_white",
        width=840,
        height=380,
        legend={"orientation": "h", "y": -0.25},
        margin={"t": 40, "b": 20},
    )
    figure.write_image(path)


def main() -> None:
    """Print the table, and draw the figure if it is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    cells = chosen(options.folders)
    print_table(cells)
    if options.svg:
        write_figure(cells, options.svg)


if __name__ == "__main__":
    main()
