"""GrOWL against group lasso on images, after the paper: `python -m benchmarks.growl_images [mnist|fashion_mnist]`.

The network is 784-300-10 with ReLU and then batch normalisation, its first layer regularised row by row. Each run
trains with the penalty, ties rows, and trains again without it; runs without a penalty train as long. Strengths, and
the similarity of rows that are tied, are chosen on validation data: the setting of the highest mean compression whose
mean accuracy is within 0.3 points of `none`. Runs that the output file has already are not run again; `--svg FILE`
draws accuracy against compression.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lit_share as ls
from benchmarks._growl_table import print_table, read, settings_of, write_curve
from lit_share.data._arrays import SOURCES

Data = dict[str, tuple[Tensor, Tensor]]

FIRST = ls.Ties("0.weight")


@dataclass(frozen=True)
class Size:
    """Images and epochs."""

    train: int
    validation: int
    test: int
    epochs: int
    batch: int


SIZES = {"mnist": Size(3200, 800, 1000, 40, 100), "fashion_mnist": Size(50_000, 10_000, 10_000, 10, 500)}


@dataclass(frozen=True)
class Method:
    """What is penalised, and how."""

    name: str
    strength: float = 0.0
    ramp: float | None = None
    l2: float = 0.0

    @property
    def label(self) -> str:
        """The method without its strength."""
        return f"{self.name} + l2" if self.l2 and self.name in ("group lasso", "GrOWL") else self.name

    def penalty(self) -> ls.Penalty | None:
        """The penalty of the first layer; GrOWL's largest weight is 1 + ramp, its smallest 1."""
        if self.name == "group lasso":
            return ls.Penalty(norm="l1", groups="input", center="zero")
        if self.name == "GrOWL":
            weights = ls.owl_weights(784, 1.0, (self.ramp or 0.0) / 392, fraction=0.5)
            return ls.Penalty(norm="owl", groups="input", center="zero", weights=weights)
        return None


def methods(strengths: list[float]) -> Iterator[Method]:
    """All that is compared."""
    yield Method("none")
    yield from (Method("weight decay", l2=l2) for l2 in (1e-4, 1e-3, 1e-2))
    for strength, l2 in product(strengths, (0.0, 1e-3)):
        yield Method("group lasso", strength, l2=l2)
        yield from (Method("GrOWL", strength, ramp, l2) for ramp in (1.0, 4.0))


def network(seed: int) -> nn.Sequential:
    """The paper's network."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.BatchNorm1d(300), nn.Linear(300, 10))


def train(net: nn.Module, x: Tensor, y: Tensor, method: Method, seed: int, lr: float, epochs: int, batch: int) -> None:
    """Train with the method's penalty by proximal steps; rows that are zero stay zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=method.l2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(x) // batch))
    penalty = method.penalty()
    ties = FIRST.find(net)
    dead = torch.zeros(784, dtype=torch.bool)
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
            if penalty is not None:
                ls.apply_prox(net, penalty, ties, step=schedule.get_last_lr()[0] * method.strength)
                weight = ties[0].tensors()[0]
                dead |= ~weight.any(dim=0)
                weight[:, dead] = 0.0
            schedule.step()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers."""
    net.eval()
    return float((net(x).argmax(dim=1) == y).double().mean())


def run(method: Method, data: Data, size: Size, seed: int) -> Iterator[dict[str, object]]:
    """One run, both phases, for each similarity of rows that are tied."""
    net = network(seed)
    train(net, *data["train"], method, seed, 0.01, size.epochs, size.batch)
    selected = net[0].weight.detach().any(dim=0).tolist()
    for similarity in (0.6, 0.7, 0.8) if method.penalty() else (None,):
        tied, clusters = copy.deepcopy(net), None
        if similarity is not None:
            (layer,) = ls.tie_rows(tied, FIRST, similarity)
            clusters = layer.clusters
        train(tied, *data["train"], Method("none", l2=method.l2), seed + 1000, 0.001, size.epochs // 2, size.batch)
        stats = ls.sharing_stats(tied)
        yield {
            "similarity": similarity,
            "clusters": clusters,
            "validation": accuracy(tied, *data["validation"]),
            "test": accuracy(tied, *data["test"]),
            "selected": selected,
            "sparsity": stats.sparsity,
            "sharing": stats.sharing,
            "compression": stats.compression,
            "bytes": stats.bytes,
        }


def load(name: str, size: Size) -> Data:
    """Images as rows, in a split that is the same for all runs."""
    arrays = SOURCES[name].load()
    x = torch.tensor(arrays.inputs).flatten(1)
    y = torch.tensor(arrays.labels)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    parts = order[: size.train + size.validation + size.test].split([size.train, size.validation, size.test])
    return {name: (x[part], y[part]) for name, part in zip(("train", "validation", "test"), parts, strict=True)}


def main() -> None:
    """Run all, and write down what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="mnist", choices=SIZES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.45, 0.6])
    parser.add_argument("--out", type=Path, default=Path("outputs/growl_images.jsonl"))
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.data]
    data = load(options.data, size)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = read(options.out, options.data) if options.out.exists() else []
    with options.out.open("a") as out:
        for method, seed in product(methods(options.strengths), range(options.seeds)):
            setting = {"data": options.data, "method": method.label, **vars(method), "seed": seed}
            if not any(setting.items() <= {k: v for k, v in row.items() if k != "selected"}.items() for row in known):
                for result in run(method, data, size, seed):
                    print(json.dumps(setting | result), file=out, flush=True)
    compared = settings_of(read(options.out, options.data))
    print_table(compared)
    if options.svg:
        write_curve(
            compared, options.svg, f"{options.data}: test accuracy against compression, {options.seeds} runs each"
        )


if __name__ == "__main__":
    main()
