"""Which neighbouring layers are one: `python -m benchmarks.depth_of_a_transformer`.

A transformer of four layers learns scikit-learn's digits from 100 and from 500 images, for ten
seeds. ``depth_tie`` makes tensors of neighbouring layers equal; after half of the training, equal
tensors are stored once, and training continues without the penalty. Transformers whose layers are
shared by hand, as four, as two (the first two and the last two) or as one, are what it has to beat
at an equal size of the file.

Source: Lan et al.: *ALBERT: A Lite BERT for Self-Supervised Learning of Language Representations*,
ICLR 2020, for one layer.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lit_share as ls
from benchmarks._tables import differences, mean_of, print_head, print_row
from benchmarks._training import Plan, train_to_best
from lit_share.lab.data import PlacedImages
from lit_share.lab.models import TransformerClassifier

SEEDS, IMAGES, SIDE = 10, (100, 500), 8
STEPS, SHARED, VALIDATED = 400, 200, 20
LR, BATCH, DEPTH = 0.002, 50, 4
STRENGTHS = (0.05, 0.1, 0.2, 0.4)
BY_HAND = {"four layers": (0, 1, 2, 3), "two layers": (0, 0, 2, 2), "one layer": (0, 0, 0, 0)}


class Part(NamedTuple):
    """Images of shape ``(examples, 1, height, width)`` and their labels."""

    images: Tensor
    labels: Tensor


class Images(NamedTuple):
    """Training, validation and test images."""

    train: Part
    validation: Part
    test: Part


class Run(NamedTuple):
    """The best validation accuracy of a run, the test accuracy there, and the size of the file."""

    validation: float
    test: float
    bytes: float


def images(n: int, seed: int) -> Images:
    """Return images, with a number of them for training."""
    data = PlacedImages("digits", SIDE, n_train=n, seed=seed)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    tensors = [loader.dataset.tensors for loader in loaders]  # type: ignore[attr-defined]
    return Images(*[Part(*own) for own in tensors])


def layers(numbers: Sequence[int] = range(DEPTH)) -> ls.Ties:
    """Return the ties of layers."""
    return ls.Ties(*(f"trunk.encoder.layers.{number}.*" for number in numbers))


@torch.no_grad()
def accuracy(net: nn.Module, part: Part) -> float:
    """Return the accuracy of a network."""
    net.eval()
    hits = (net(part.images).argmax(1) == part.labels).float().mean()
    net.train()
    return float(hits)


def train(
    data: Images,
    seed: int,
    by_hand: Sequence[int] = range(DEPTH),
    penalty: ls.PenaltySteps | None = None,
) -> Run:
    """Train a network, and store equal layers once.

    Args:
        data: The images.
        seed: The seed of the weights and of the order of images.
        by_hand: For each layer, the number of the layer that it is.
        penalty: A penalty for the first steps, after which equal tensors are shared.
    """
    torch.manual_seed(seed)
    shape = (1, SIDE, SIDE)
    net = TransformerClassifier(shape, num_classes=10, depth=DEPTH, same_init=True)
    for first in set(by_hand):
        own = [number for number, other in enumerate(by_hand) if other == first]
        if len(own) > 1:
            ls.share(net, layers(own))
    batches: list[Tensor] = []

    def loss() -> Tensor:
        if not batches:
            batches.extend(torch.randperm(len(data.train.images)).split(BATCH))
        own = batches.pop()
        return F.cross_entropy(net(data.train.images[own]), data.train.labels[own])

    def measure(validation: float) -> Run:
        size = ls.sharing_stats(net).bytes
        assert size is not None
        return Run(validation, accuracy(net, data.test), size)

    return train_to_best(
        net,
        layers(),
        Plan(STEPS, VALIDATED, stored=SHARED),
        penalty=penalty,
        optimizer_of=lambda parameters: torch.optim.Adam(parameters, LR),
        loss=loss,
        validate=lambda: accuracy(net, data.validation),
        measure=measure,
    )


def compare(n: int, seeds: int) -> None:
    """Print the table of a number of images."""
    rows: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for seed in range(seeds):
        data = images(n, seed)
        for name, by_hand in BY_HAND.items():
            rows[name, "by hand"].append(train(data, seed, by_hand))
        runs = []
        for strength in STRENGTHS:
            penalty = ls.PenaltySteps("depth_tie", layers(), strength)
            runs.append(train(data, seed, penalty=penalty))
            rows["`depth_tie`", f"{strength:g}"].append(runs[-1])
        best = max(runs, key=lambda run: run.validation)
        rows["`depth_tie`", "by validation"].append(best)
    print(f"\n{n} images\n")
    print_head("", "strength", "KiB", "accuracy", "− four layers", "− one layer")
    hand = [rows[name, "by hand"] for name in ("four layers", "one layer")]
    baselines = [[run.test for run in runs] for runs in hand]
    for (name, strength), own in rows.items():
        tests = [run.test for run in own]
        size = mean_of(run.bytes / 1024 for run in own)
        print_row([name, strength, size, mean_of(tests), *differences(tests, *baselines)])


def main() -> None:
    """Print a table for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for n in IMAGES:
        compare(n, options.seeds)


if __name__ == "__main__":
    main()
