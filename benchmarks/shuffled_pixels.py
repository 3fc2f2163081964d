"""Find equal weights where a convolution cannot: `python -m benchmarks.shuffled_pixels`.

A network of one hidden layer classifies scikit-learn's digits of 8 × 8 pixels, as they are and with
their pixels in another order, the same for all images, in which neighbours mean nothing. The first
layer has the outputs of a convolution of eight filters. It is that convolution, or locally
connected, or connects all pixels with all outputs: without a penalty, with ``l2``, with ``lasso``,
or with ``value_tie``, which makes its weights equal where training finds them to be one value.

Each seed has other training images, and each penalty the strength that is best on its validation
images. A second table has all strengths of the penalties that make weights equal or zero.

Source: Shakerinava, Sohrabi, Ravanbakhsh, Lacoste-Julien: *Weight-Sharing Regularization*, AISTATS
2024.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate
from lit_share.local import LocallyConnected2d

SEEDS, EPOCHS, BATCH = 10, 150, 50
SIDE, FILTERS, KERNEL = 8, 8, 3
OUTPUTS = FILTERS * (SIDE - KERNEL + 1) ** 2
SIZES = (100, 300)
Setting = Literal["in place", "shuffled"]
STRENGTHS: Mapping[str, Sequence[float]] = {
    "l2": [10.0**k for k in (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5)],
    "lasso": [10.0**k for k in (-2.5, -2.0, -1.5, -1.0, -0.5, 0.0)],
    "value_tie": [10.0**k for k in (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5)],
}
TIES = {"l2": "0.weight", "lasso": "0.weight", "value_tie": "0.weight[...]"}


class Part(NamedTuple):
    """Images of shape ``(examples, 1, 8, 8)`` and their labels."""

    images: Tensor
    labels: Tensor


class Digits(NamedTuple):
    """Images for training, for choosing strengths, and for the result."""

    train: Part
    validation: Part
    test: Part


class Result(NamedTuple):
    """What comes of a training.

    Attributes:
        validation: Accuracy on validation images.
        test: Accuracy on test images.
        values: The number of different weights of the first layer.
        kilobytes: The size of its compact file.
    """

    validation: float
    test: float
    values: int
    kilobytes: float


def digits(setting: Setting, seed: int) -> Digits:
    """Return the images of a seed."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16.0
    labels = torch.from_numpy(data.target)
    if setting == "shuffled":
        order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(0))
        images = images.flatten(1)[:, order].view(-1, 1, SIDE, SIDE)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = rows.split([*SIZES, len(images) - sum(SIZES)])
    return Digits(*[Part(images[i], labels[i]) for i in parts])


def network(first: str) -> nn.Sequential:
    """Return a network whose first layer is given by name."""
    head = (nn.Flatten(), nn.ReLU(), nn.Linear(OUTPUTS, 10))
    if first == "convolution":
        return nn.Sequential(nn.Conv2d(1, FILTERS, KERNEL), *head)
    if first == "locally connected":
        return nn.Sequential(LocallyConnected2d(1, FILTERS, KERNEL, SIDE), *head)
    # The flattened images come first, so that all first layers have one name.
    return nn.Sequential(nn.Linear(SIDE**2, OUTPUTS), *head)


def train(
    first: str, data: Digits, seed: int, epochs: int, penalty: ls.PenaltySteps | None = None
) -> Result:
    """Train a network, and return what comes of it."""
    torch.manual_seed(seed)
    net = network(first)
    if isinstance(net[0], nn.Linear):
        data = Digits(*[Part(part.images.flatten(1), part.labels) for part in data])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    if penalty is not None:
        penalty.attach(net, optimizer)
    for _ in range(epochs):
        for own in torch.randperm(len(data.train.images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(data.train.images[own]), data.train.labels[own]).backward()
            if penalty is not None:
                penalty.before_step()
            optimizer.step()
            if penalty is not None:
                penalty.after_step()
    weight = net[0].weight.detach()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "first.safetensors")
        ls.save_compact(net[0], path)
        kilobytes = path.stat().st_size / 1000
    accuracies = accuracy(net, data.validation), accuracy(net, data.test)
    return Result(*accuracies, weight.unique().numel(), kilobytes)


@torch.no_grad()
def accuracy(net: nn.Module, part: Part) -> float:
    """Return the accuracy of a network."""
    return float((net(part.images).argmax(1) == part.labels).float().mean())


def run(setting: Setting, seed: int, epochs: int) -> tuple[dict[str, Result], dict[str, Result]]:
    """Return the result of each network, at the strength that validation chooses, and at all."""
    data, all_strengths = digits(setting, seed), {}
    results = {
        first: train(first, data, seed, epochs)
        for first in ("convolution", "locally connected", "fully connected")
    }
    for recipe, strengths in STRENGTHS.items():
        found = {
            strength: train(
                recipe, data, seed, epochs, ls.PenaltySteps(recipe, [TIES[recipe]], strength)
            )
            for strength in strengths
        }
        # Of equally good strengths the largest, which makes the most weights equal.
        best = max(found, key=lambda strength: (found[strength].validation, strength))
        print(f"{setting}, seed {seed}: {recipe} at {best:.2g}", flush=True)
        results[f"fully connected, `{recipe}`"] = found[best]
        all_strengths |= {f"`{recipe}`, {strength:.2g}": own for strength, own in found.items()}
    return results, all_strengths


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    rows: dict[str, dict[Setting, list[Result]]] = defaultdict(lambda: defaultdict(list))
    shuffled: dict[str, list[Result]] = defaultdict(list)
    for setting in get_args(Setting):
        for seed in range(options.seeds):
            chosen, all_strengths = run(setting, seed, options.epochs)
            for name, own in chosen.items():
                rows[name][setting].append(own)
            if setting == "shuffled":
                for name, own in all_strengths.items():
                    shuffled[name].append(own)
    print_table(rows)
    print_strengths(shuffled)


def print_table(rows: Mapping[str, Mapping[Setting, Sequence[Result]]]) -> None:
    """Print test accuracies as Markdown, their gains over ``l2``, and what is stored."""
    print("\n| first layer | in place | shuffled | shuffled − `l2` | values | kB |")
    print("|---|---|---|---|---|---|")
    control = rows["fully connected, `l2`"]["shuffled"]
    for name, own in rows.items():
        shuffled = own["shuffled"]
        cells = [
            estimate([result.test for result in own["in place"]]),
            estimate([result.test for result in shuffled]),
            estimate([a.test - b.test for a, b in zip(shuffled, control, strict=True)]),
        ]
        print(f"| {name} | " + " | ".join([*map(str, cells), *sizes(shuffled)]) + " |")


def print_strengths(rows: Mapping[str, Sequence[Result]]) -> None:
    """Print test accuracies of shuffled images over the strengths, and what is stored."""
    print("\n| penalty and strength | shuffled | values | kB |")
    print("|---|---|---|---|")
    for name, own in rows.items():
        if not name.startswith("`l2`"):
            accuracies = str(estimate([result.test for result in own]))
            print(f"| {name} | " + " | ".join([accuracies, *sizes(own)]) + " |")


def sizes(results: Sequence[Result]) -> list[str]:
    """Return the mean numbers of values and of kilobytes, as text."""
    values = sum(result.values for result in results) / len(results)
    kilobytes = sum(result.kilobytes for result in results) / len(results)
    return [f"{values:,.0f}", f"{kilobytes:.1f}"]


if __name__ == "__main__":
    main()
