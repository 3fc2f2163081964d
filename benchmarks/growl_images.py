"""What shares the rows of correlated inputs best, on images: `python -m benchmarks.growl_images`.

With `mnist` and `fashion_mnist` the network is that of the GrOWL paper, 784-300-10 with ReLU and
then batch normalisation, its first layer regularised row by row; with `mnist_vgg` it is a small one
in the style of VGG, in which all convolutions of several inputs are. Compared are penalties, whose
rows are clustered after training; clusters of inputs that vary together in the data, and blocks of
neighbouring pixels, whose rows are tied before training; and penalties on top of such clusters.

Each run trains by SGD, with the penalty if there is one, and trains again by Adam without it. Rows
are tied in between, at several similarities from one training. Everything is chosen on validation
data: the setting of the highest mean compression whose mean accuracy is within 0.3 points of
`none`. Runs that the output file has already are not run again; `--svg FILE` draws accuracy against
compression.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lit_share as ls
from benchmarks._growl_table import print_stability, print_table, read, settings_of, write_curve
from lit_share.codebooks import CODEBOOKS, dense_weight, find_row_layers, tie_found
from lit_share.lab.data import SOURCES

Data = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """Images, a network and epochs.

    Attributes:
        source: The data set.
        network: Makes the network.
        ties: The weights whose rows are regularised.
        sizes: Of training, validation and test data.
        epochs: Of the first phase; the second has half of them.
        batch: Images in a batch.
    """

    source: str
    network: Callable[[], nn.Sequential]
    ties: ls.Ties
    sizes: tuple[int, int, int]
    epochs: int
    batch: int


def mlp() -> nn.Sequential:
    """The paper's network."""
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.BatchNorm1d(300), nn.Linear(300, 10))


def vgg() -> nn.Sequential:
    """A small network in the style of VGG."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]

    stages = [
        *block(1, 16),
        nn.MaxPool2d(2),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        *block(64, 64),
    ]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)]
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *stages, *head)


# Of rows that are tied after training: the paper's, and smaller ones.
SIMILARITIES = (0.7, 0.5, 0.3, 0.2, 0.15, 0.1)
FIRST = ls.Ties("0.weight")
# All convolutions but the first, which has one input.
CONVOLUTIONS = ls.Ties("*.weight", exclude=["1.*", "3.*", "7.*", "11.*", "14.*", "17.*"])
TASKS = {
    "mnist": Task("mnist", mlp, FIRST, (3200, 800, 1000), 40, 100),
    "fashion_mnist": Task("fashion_mnist", mlp, FIRST, (50_000, 10_000, 10_000), 10, 500),
    "mnist_vgg": Task("mnist", vgg, CONVOLUTIONS, (3200, 800, 1000), 12, 100),
}


@dataclass(frozen=True)
class Method:
    """What is tied before training, and what is penalised.

    Attributes:
        name: The penalty, or how rows are tied before training if there is no penalty.
        strength: Of the penalty.
        ramp: How much larger than the smallest weight of GrOWL the largest is.
        l2: Weight decay.
        clusters: The number of clusters of inputs, which are found in the data.
        block: The side of blocks of pixels that share a row.
    """

    name: str
    strength: float = 0.0
    ramp: float | None = None
    l2: float = 0.0
    clusters: int | None = None
    block: int | None = None

    @property
    def label(self) -> str:
        """The method without its settings."""
        penalised = self.name in ("group lasso", "GrOWL")
        if penalised and self.clusters:
            return f"correlated inputs + {self.name}"
        return f"{self.name} + l2" if self.l2 and penalised else self.name

    def penalty(self) -> ls.Penalty | None:
        """The penalty of rows; GrOWL's largest weight is 1 + ramp, its smallest 1.

        As in the paper, rows of long layers count as much as those of short ones.
        """
        if self.name == "group lasso":
            return ls.Penalty(norm="l1", groups="input", center="zero", scaled=False)
        if self.name == "GrOWL":
            ramp = self.ramp or 0.0
            weights = lambda n: ls.owl_weights(n, 1.0, ramp / (0.5 * n), fraction=0.5)  # noqa: E731
            return ls.Penalty("owl", "input", "zero", weights, scaled=False)
        return None


def methods(
    strengths: list[float], ramps: list[float], clusters: list[int], task: Task
) -> Iterator[Method]:
    """All that is compared."""
    yield Method("none")
    yield from (Method("weight decay", l2=l2) for l2 in (1e-4, 1e-3, 1e-2))
    yield from (Method("correlated inputs", clusters=n) for n in clusters)
    if task.network is mlp:
        yield from (Method("blocks of pixels", block=side) for side in (2, 3, 4, 5))
    for strength in strengths:
        yield Method("group lasso", strength)
        for ramp, l2 in product(ramps, (0.0, 1e-3)):
            yield Method("GrOWL", strength, ramp, l2)
        # Penalties find what is superfluous among clusters that lose nothing.
        for n in clusters[-1:]:
            yield Method("group lasso", strength, clusters=n)
            yield Method("GrOWL", strength, ramps[0], clusters=n)


def tie_before(net: nn.Module, data: Data, task: Task, method: Method) -> None:
    """Tie the rows that a method ties before training."""
    if method.clusters is not None:
        batches = data["train"][0].split(500)
        ls.tie_rows(net, task.ties, by="data", inputs=batches, clusters=method.clusters)
    if method.block is not None:
        row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
        number = (row // method.block) * 28 + column // method.block
        labels = number.flatten().unique(return_inverse=True)[1]
        tie_found(net, find_row_layers(net, task.ties, "weights"), [labels])


def train(net: nn.Module, data: Data, task: Task, method: Method, seed: int) -> None:
    """Train with the method's penalty by proximal steps; rows that are zero stay zero."""
    optimizer = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad],
        lr=0.01,
        momentum=0.9,
        weight_decay=method.l2,
    )
    penalty = method.penalty()
    ties = task.ties.find(net) if penalty else []
    dead = [torch.zeros(tie.shape[1], dtype=torch.bool) for tie in ties]
    for lr in steps(net, data, task, optimizer, seed, task.epochs):
        if penalty is not None:
            ls.apply_prox(net, penalty, ties, step=lr * method.strength)
        for tie, zero in zip(ties, dead, strict=True):
            (weight,) = tie.tensors()
            zero |= ~weight.transpose(0, 1).flatten(1).any(dim=1)
            weight[:, zero] = 0.0


def train_again(net: nn.Module, data: Data, task: Task, method: Method, seed: int) -> None:
    """Train without a penalty, for half as long."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=method.l2)
    for _ in steps(net, data, task, optimizer, seed + 1000, task.epochs // 2):
        pass


def steps(
    net: nn.Module,
    data: Data,
    task: Task,
    optimizer: torch.optim.Optimizer,
    seed: int,
    epochs: int,
) -> Iterator[float]:
    """Take the steps of a training, and yield the learning rate after each."""
    x, y = data["train"]
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, epochs * (len(x) // task.batch)
    )
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(task.batch):
            if len(chosen) < task.batch:
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
            yield schedule.get_last_lr()[0]
            schedule.step()


def selected(layer: nn.Module) -> Tensor:
    """Which inputs of a layer are read."""
    weight = layer.weight
    if isinstance(layer, CODEBOOKS):
        weight = dense_weight(layer)
    assert isinstance(weight, Tensor)
    return weight.transpose(0, 1).flatten(1).any(dim=1)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers."""
    net.eval()
    return float((net(x).argmax(dim=1) == y).double().mean())


def run(method: Method, data: Data, task: Task, seed: int) -> Iterator[dict[str, object]]:
    """One run, both phases, for each similarity of rows that are tied."""
    torch.manual_seed(seed)
    net = task.network()
    tie_before(net, data, task, method)
    train(net, data, task, method, seed)
    layers = [tie.members[0].ref.owner for tie in task.ties.find(net)]
    rows = torch.cat([selected(layer) for layer in layers]).tolist()
    for similarity in SIMILARITIES if method.penalty() else (None,):
        tied = copy.deepcopy(net)
        if similarity is not None:
            ls.tie_rows(tied, task.ties, similarity, "linkage")
        train_again(tied, data, task, method, seed)
        stats = ls.sharing_stats(tied)
        yield {
            "similarity": similarity,
            "validation": accuracy(tied, *data["validation"]),
            "test": accuracy(tied, *data["test"]),
            "selected": rows,
            "sparsity": stats.sparsity,
            "sharing": stats.sharing,
            "compression": stats.compression,
            "bytes": stats.bytes,
        }


def load(task: Task) -> Data:
    """Images as rows, in a split that is the same for all runs."""
    arrays = SOURCES[task.source].load()
    x, y = torch.tensor(arrays.inputs).flatten(1), torch.tensor(arrays.labels)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    parts = order[: sum(task.sizes)].split(task.sizes)
    return {
        name: (x[part], y[part])
        for name, part in zip(("train", "validation", "test"), parts, strict=True)
    }


def main() -> None:
    """Run all, and write down what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="mnist", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--ramps", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--clusters", type=int, nargs="+", default=[15, 20, 25, 30, 40, 50, 80])
    parser.add_argument("--out", type=Path, default=Path("outputs/growl_images.jsonl"))
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[options.data]
    data = load(task)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = read(options.out, options.data) if options.out.exists() else []
    with options.out.open("a") as out:
        for method, seed in product(
            methods(options.strengths, options.ramps, options.clusters, task),
            range(options.seeds),
        ):
            setting = {"data": options.data, "method": method.label, **vars(method), "seed": seed}
            if not any(
                setting.items() <= {k: v for k, v in row.items() if k != "selected"}.items()
                for row in known
            ):
                for result in run(method, data, task, seed):
                    print(json.dumps(setting | result), file=out, flush=True)
    compared = settings_of(read(options.out, options.data))
    print_table(compared)
    print_stability(compared)
    if options.svg:
        write_curve(
            compared,
            options.svg,
            f"{options.data}: test accuracy against compression, {options.seeds} runs each",
        )


if __name__ == "__main__":
    main()
