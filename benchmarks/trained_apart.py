"""What can be shared between models that were trained apart: `python -m benchmarks.trained_apart`.

Two networks learn halves of 4,000 MNIST digits from different starts, for ten seeds. Then they are
merged without further training: their first layers become one Parameter, the mean of both, from
none of the layers to all of them. The accuracy of both on test images is compared as they are, and
aligned by weights or by activations. As controls, networks that start from the same weights are
merged, too, and networks of which one learns shuffled classes, so that their last layers differ.
The barrier is the loss of the mean of both minus the mean of their losses.

Source: Ainsworth, Hayase, Srinivasa: *Git Re-Basin*, ICLR 2023, merges all layers.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from plotly.subplots import make_subplots
from torch import nn

import lit_share as ls
from benchmarks._apart import (
    Digits,
    Score,
    all_ties,
    cnn,
    digits,
    merged,
    mlp,
    score,
    trained,
    weighted_layers,
)
from benchmarks._tables import mean_of, print_head, print_row
from benchmarks.figures import write
from lit_share.lab.plots import Curve, curves, styles
from lit_share.lab.report import estimate

SEEDS = 10
EPOCHS = {mlp: 15, cnn: 10}
APART = "trained apart"
CONTROL = "the same start"
SETTINGS = {
    APART: {"same_start": False, "unrelated": False},
    CONTROL: {"same_start": True, "unrelated": False},
    "shuffled classes": {"same_start": False, "unrelated": True},
}
# Lines of the figure; the last is of the control.
LINES = ("as trained", "as trained, repaired", "aligned by weights", "aligned by weights, repaired")


class Shared(NamedTuple):
    """What two networks reach when a fraction of their numbers is shared."""

    fraction: float
    score: Score


class Measured(NamedTuple):
    """The curve of one seed, from no shared layer to all, and the seconds that aligning took."""

    curve: list[Shared]
    seconds: float

    @property
    def ends(self) -> Score:
        """What both reach as they were trained."""
        return self.curve[0].score

    @property
    def mean(self) -> Score:
        """What the mean of both reaches."""
        return self.curve[-1].score

    @property
    def barrier(self) -> float:
        """By how much the loss of the mean exceeds the mean of both losses."""
        return self.mean.loss - self.ends.loss


# By what was done before merging, for each seed.
Found = dict[str, list[Measured]]


def measure(
    make: Callable[[], nn.Module], seeds: int, epochs: int, same_start: bool, unrelated: bool
) -> Found:
    """Return the curves of all seeds."""
    found: Found = defaultdict(list)
    for seed in range(seeds):
        data = digits(seed, 2, unrelated)
        pair = trained(make, data, seed, same_start, epochs)
        # Both see the images of the first half, as activations are compared image by image.
        images = data.parts[0].images[:500]
        for by in (None, "weights", "activations"):
            own = copy.deepcopy(pair)
            begin = perf_counter()
            if by:
                ls.align(own, all_ties(own), images, by=by)
            seconds = perf_counter() - begin
            for repaired in (False, True):
                name = f"aligned by {by}" if by else "as trained"
                name += ", repaired" * repaired
                found[name].append(Measured(curve(own, data, repaired), seconds))
    return found


def curve(pair: nn.ModuleDict, data: Digits, repaired: bool) -> list[Shared]:
    """Return what both reach for each number of merged layers."""
    numbers = sum(p.numel() for p in pair.parameters())
    points = []
    for layers in range(len(weighted_layers(pair)) + 1):
        both = merged(pair, data, layers, repaired)
        fraction = 2.0 * (1.0 - sum(p.numel() for p in both.parameters()) / numbers)
        points.append(Shared(fraction, score(both, data.tests)))
    return points


def print_curves(found: Found) -> None:
    """Print accuracies as Markdown, a column for each fraction of shared numbers."""
    fractions = [point.fraction for point in found["as trained"][0].curve]
    print_head("numbers shared", *(f"{100 * fraction:.0f} %" for fraction in fractions))
    for name, seeds in found.items():
        points = zip(*(own.curve for own in seeds), strict=True)
        print_row([name, *(mean_of(p.score.accuracy for p in column) for column in points)])


def print_barriers(found: Found) -> None:
    """Print the barriers, also as a fraction of that before, and what the mean of both reaches."""
    columns = ("barrier", "of that before", "accuracy of the mean", "minus the ends", "seconds")
    print_head("", *columns)
    before = found["as trained"]
    for name, seeds in found.items():
        print_row(
            [
                name,
                mean_of(own.barrier for own in seeds),
                mean_of(own.barrier / old.barrier for own, old in zip(seeds, before, strict=True)),
                mean_of(own.mean.accuracy for own in seeds),
                mean_of(own.mean.accuracy - own.ends.accuracy for own in seeds),
                f"{sum(own.seconds for own in seeds) / len(seeds):.2f}",
            ]
        )


def write_figure(results: Mapping[str, Mapping[str, Found]], path: Path) -> None:
    """Draw accuracy over the fraction of shared numbers, a panel for each network."""
    figure = make_subplots(cols=len(results), shared_yaxes=True, subplot_titles=list(results))
    for column, settings in enumerate(results.values(), start=1):
        lines = {name: line(settings[APART][name]) for name in LINES}
        lines[CONTROL] = line(settings[CONTROL]["as trained"])
        looks = styles(lines, baseline="as trained")
        for trace in curves(lines, looks, "", "").data:
            trace.update(showlegend=bool(trace.showlegend is None and column == 1))
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title="numbers shared (%)")
    figure.update_yaxes(title="accuracy of both", col=1)
    legend = {"orientation": "h", "y": -0.25}
    figure.update_layout(
        template="plotly_white", height=400, legend=legend, margin={"t": 40, "r": 16}
    )
    write(figure, path, 840)


def line(seeds: Sequence[Measured]) -> Curve:
    """Return the means over seeds, with their intervals."""
    fractions = [100 * point.fraction for point in seeds[0].curve]
    columns = zip(*(own.curve for own in seeds), strict=True)
    means = [estimate([point.score.accuracy for point in column]) for column in columns]
    estimates = [own for own in means if own]
    lows, highs = [own.low for own in estimates], [own.high for own in estimates]
    return Curve(fractions, [own.mean for own in estimates], lows, highs)


def main() -> None:
    """Print tables for each network and setting, and draw the figure if it is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="of each network; by default 15 (mlp), 10 (cnn)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="an SVG to draw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Found]] = {}
    for make, epochs in EPOCHS.items():
        results[make.__name__] = {}
        for setting, choice in SETTINGS.items():
            found = measure(make, options.seeds, options.epochs or epochs, **choice)
            results[make.__name__][setting] = found
            print(f"\n{make.__name__}, {setting}\n")
            print_curves(found)
            if setting == APART:
                print()
                print_barriers(found)
    if options.figure:
        write_figure(results, options.figure)


if __name__ == "__main__":
    main()
