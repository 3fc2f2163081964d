"""Six sites with scikit-learn's digits, and the training of a model for each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from string import ascii_lowercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lit_share as ls
from benchmarks._training import Plan, train_to_best
from lit_share.lab.data import ManyDomains

NAMES = ascii_lowercase[:6]
IMAGES = 50
# Steps of members alone, the step at which clusters are stored once, and the last.
ALONE, SHARED, STEPS = 20, 200, 300
VALIDATED = 20
LR, MOMENTUM = 0.1, 0.9

Part = dict[str, tuple[Tensor, Tensor]]


class Sites(NamedTuple):
    """Images and labels of each site, by its name."""

    train: Part
    validation: Part
    test: Part


class Run(NamedTuple):
    """The best validation accuracy of a run, and the test accuracy and clusters by layer there."""

    validation: float
    test: float
    clusters: dict[str, list[int]]


def sites(own: Mapping[str, Mapping[str, object]], seed: int) -> Sites:
    """Return the sites of a seed.

    Where the last three are inverted, they are ``data=six_sites`` of `train.py`.

    Args:
        own: Arguments of `ManyDomains` in which sites differ from the digits themselves, by name.
        seed: The seed of the split.
    """
    members = {name: {"domain": "same", "n": IMAGES, **own.get(name, {})} for name in NAMES}
    data = ManyDomains(members, seed=seed)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return Sites(
        *[
            {name: own.dataset.tensors for name, own in part.items()}  # type: ignore[attr-defined]
            for part in loaders
        ]
    )


def networks(seed: int, hidden: int) -> nn.ModuleDict:
    """Return a network for each site, all with the same weights."""
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 10)]
    if hidden:
        layers[1:] = [nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    net = nn.Sequential(*layers)
    return nn.ModuleDict({name: copy.deepcopy(net) for name in NAMES})


def ties(members: Iterable[str] = NAMES) -> ls.Ties:
    """Return the ties of the members' weights."""
    return ls.Ties(*(f"{name}.*.weight" for name in members))


def share_groups(nets: nn.ModuleDict, groups: Sequence[int]) -> None:
    """Make the members of each group one Parameter."""
    for group in set(groups):
        own = [name for name, other in zip(NAMES, groups, strict=True) if other == group]
        if len(own) > 1:
            ls.share(nets, ties(own))


@torch.no_grad()
def accuracy(nets: nn.ModuleDict, part: Part) -> float:
    """Return the mean accuracy of all sites."""
    hits = [(nets[name](x).argmax(1) == y).float().mean() for name, (x, y) in part.items()]
    return float(torch.stack(hits).mean())


def loss(nets: nn.ModuleDict, part: Part) -> Tensor:
    """Return the sum of all sites' losses."""
    losses = [F.cross_entropy(nets[name](x), y) for name, (x, y) in part.items()]
    return torch.stack(losses).sum()


def train(
    data: Sites,
    seed: int,
    hidden: int = 0,
    penalty: ls.PenaltySteps | None = None,
    prepare: Callable[[nn.ModuleDict], None] | None = None,
    stores_clusters: bool = False,
    tested: Iterable[str] = NAMES,
) -> Run:
    """Train the networks of all sites.

    Args:
        data: The sites.
        seed: The seed of the initial weights.
        hidden: The width of the hidden layer; 0 for linear models.
        penalty: The penalty, if there is one.
        prepare: Is called with the networks before training.
        stores_clusters: Whether the penalty ends, and equal members become one Parameter.
        tested: The sites whose mean test accuracy is returned.
    """
    nets, test = networks(seed, hidden), {name: data.test[name] for name in tested}
    if prepare is not None:
        prepare(nets)

    def measure(validation: float) -> Run:
        labels = {tie.name: list(tie.labels) for tie in ls.clusters(nets, ties()).ties}
        return Run(validation, accuracy(nets, test), labels)

    plan = Plan(STEPS, VALIDATED)
    if stores_clusters:
        plan = plan._replace(stored=SHARED)
    return train_to_best(
        nets,
        ties(),
        plan,
        penalty=penalty,
        optimizer_of=lambda parameters: torch.optim.SGD(parameters, LR, MOMENTUM),
        loss=lambda: loss(nets, data.train),
        validate=lambda: accuracy(nets, data.validation),
        measure=measure,
    )


def shared_in(
    groups: Sequence[int],
    data: Sites,
    seed: int,
    hidden: int = 0,
    tested: Iterable[str] = NAMES,
) -> Run:
    """Train with one copy of each group."""

    def prepare(nets: nn.ModuleDict) -> None:
        share_groups(nets, groups)

    return train(data, seed, hidden, prepare=prepare, tested=tested)


def within(groups: Sequence[int], strength: float) -> ls.PenaltySteps:
    """Return soft ties within groups."""
    edges = [(i, j) for i, j in combinations(range(len(groups)), 2) if groups[i] == groups[j]]
    penalty = ls.Penalty(norm="squared", groups="element", center="graph", edges=edges)
    return ls.PenaltySteps(penalty, ties(), strength)


def best_of(runs: Iterable[Run]) -> Run:
    """Return the run with the best accuracy on validation data, the first of equal ones."""
    return max(runs, key=lambda run: run.validation)
