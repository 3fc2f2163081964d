"""Which of six sites belong together: `python -m benchmarks.who_belongs`.

Six linear models learn scikit-learn's digits with 50 images each, for ten seeds. Two groups of
three conflict: *inverted*, black and white are swapped in one of them; *labels*, its classes are
numbered differently. ``cluster_tie`` trains the members alone for a while, ties them with edges of
adaptive weights, stores once what is exactly equal, and trains on without the penalty. The table
says, for each strength, how well the clusters are the planted groups (adjusted Rand index: 1 if
they are the same, 0 on average for groups at random), and the accuracy. *same* plants nothing.

Its controls: edges of one weight (``all``); groups of random members, which are compared with the
clusters as the planted ones are; clusters of the distances after training apart, by average
linkage; and the planted groups themselves, as soft ties and as one copy each.

``--layers`` has networks with a hidden layer, and the index of each layer.

Source of the index: Hubert, Arabie: *Comparing Partitions*, Journal of Classification 1985.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import fmean
from string import ascii_lowercase
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

import lit_share as ls
from benchmarks._tables import mean_of, print_head, print_row
from lit_share.lab.data import ManyDomains

SEEDS, IMAGES = 10, 50
GROUPS = (0, 0, 0, 1, 1, 1)
NAMES = ascii_lowercase[: len(GROUPS)]
# Steps of members alone, the step at which clusters are stored once, and the last.
ALONE, SHARED, STEPS = 20, 200, 300
VALIDATED = 20
LR, MOMENTUM = 0.1, 0.9
# Those of the penalty on graphs; in a sum over all tensors, those of weights decide.
STRENGTHS = (0.1, 0.2, 0.4, 0.57, 0.8, 1.13, 1.6, 3.2, 6.4)
SOFT = (0.01, 0.03, 0.1, 0.3)

Setting = Literal["inverted", "labels", "same"]
EdgesName = Literal["adaptive", "all"]
Part = dict[str, tuple[Tensor, Tensor]]


class Sites(NamedTuple):
    """Images and labels of each site, by its name."""

    train: Part
    validation: Part
    test: Part


class Run(NamedTuple):
    """The best validation accuracy of a run, the test accuracy there, and clusters by layer."""

    validation: float
    test: float
    clusters: dict[str, list[int]]


def sites(setting: Setting, seed: int) -> Sites:
    """Return the sites of a seed: the same as in ``experiment=six_sites``."""
    members: dict[str, dict[str, object]] = {}
    for name, group in zip(NAMES, GROUPS, strict=True):
        members[name] = {"domain": "same", "n": IMAGES}
        if group and setting == "inverted":
            members[name]["domain"] = "inverted"
        if group and setting == "labels":
            members[name]["labels"] = [*range(5, 10), *range(5)]
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


def train(
    data: Sites,
    seed: int,
    hidden: int,
    penalty: ls.PenaltySteps | None = None,
    prepare: Callable[[nn.ModuleDict], None] | None = None,
    stores_clusters: bool = False,
) -> Run:
    """Train the networks of all sites.

    Args:
        data: The sites.
        seed: The seed of the initial weights.
        hidden: The width of the hidden layer; 0 for linear models.
        penalty: The penalty, if there is one.
        prepare: Is called with the networks, after some steps if ``stores_clusters``, else first.
        stores_clusters: Whether the penalty ends, and equal members become one Parameter.
    """
    nets = networks(seed, hidden)
    if prepare is not None:
        prepare(nets)
    optimizer = torch.optim.SGD(nets.parameters(), LR, MOMENTUM)
    if penalty is not None:
        penalty.attach(nets, optimizer)
    found = ls.clusters(nets, ties())
    best = (-1.0, 0.0)
    for step in range(STEPS):
        if stores_clusters and step == SHARED:
            found = ls.clusters(nets, ties())
            ls.share(nets, ties(), where="equal")
            optimizer, penalty = torch.optim.SGD(nets.parameters(), LR, MOMENTUM), None
        optimizer.zero_grad()
        losses = [F.cross_entropy(nets[name](x), y) for name, (x, y) in data.train.items()]
        torch.stack(losses).sum().backward()
        if penalty is not None:
            penalty.before_step()
        optimizer.step()
        if penalty is not None:
            penalty.after_step()
        # Before clusters are stored, there is nothing to choose from.
        if (step + 1) % VALIDATED == 0 and not (stores_clusters and step < SHARED):
            validation = accuracy(nets, data.validation)
            if validation > best[0]:
                best = (validation, accuracy(nets, data.test))
                if not stores_clusters:
                    found = ls.clusters(nets, ties())
    labels = {tie.name: list(tie.labels) for tie in found.ties}
    return Run(*best, labels)


def clustered(
    data: Sites,
    seed: int,
    hidden: int,
    edges: EdgesName,
    strength: float,
    stores_clusters: bool = True,
) -> Run:
    """Find clusters by the penalty, and train on with these."""
    penalty = ls.Penalty(norm="l1", groups="tensor", center="graph", edges=edges)
    ramp = ls.Ramp(duration=1, begin=ALONE)
    steps = ls.PenaltySteps(penalty, ties(), strength, schedule=ramp)
    return train(data, seed, hidden, steps, stores_clusters=stores_clusters)


def linked(data: Sites, seed: int, hidden: int) -> list[int]:
    """Return two clusters of the distances between members that were trained alone."""
    nets = networks(seed, hidden)
    optimizer = torch.optim.SGD(nets.parameters(), LR, MOMENTUM)
    for _ in range(SHARED):
        optimizer.zero_grad()
        losses = [F.cross_entropy(nets[name](x), y) for name, (x, y) in data.train.items()]
        torch.stack(losses).sum().backward()
        optimizer.step()
    vectors = [nn.utils.parameters_to_vector(nets[name].parameters()).detach() for name in NAMES]
    distances = torch.cdist(torch.stack(vectors), torch.stack(vectors)).double().numpy()
    condensed = squareform(distances, checks=False)
    return [int(label) for label in fcluster(linkage(condensed, "average"), 2, "maxclust")]


def within(groups: Sequence[int], strength: float) -> ls.PenaltySteps:
    """Return soft ties within groups."""
    edges = [(i, j) for i, j in combinations(range(len(groups)), 2) if groups[i] == groups[j]]
    penalty = ls.Penalty(norm="squared", groups="element", center="graph", edges=edges)
    return ls.PenaltySteps(penalty, ties(), strength)


def index(groups: Sequence[int], labels: Sequence[int]) -> float:
    """Return the adjusted Rand index of two groupings."""
    return float(adjusted_rand_score(groups, labels))


def best_of(runs: Iterable[Run]) -> Run:
    """Return the run with the best accuracy on validation data, the first of equal ones."""
    return max(runs, key=lambda run: run.validation)


def compare(setting: Setting, seeds: int, hidden: int) -> None:
    """Print the tables of a setting."""
    rows: dict[str, list[Run]] = defaultdict(list)
    paths: dict[tuple[EdgesName, float], list[Run]] = defaultdict(list)
    chance: dict[tuple[EdgesName, float], list[float]] = defaultdict(list)
    linkage_index = []
    for seed in range(seeds):
        data = sites(setting, seed)
        random = np.random.default_rng(seed).permutation(GROUPS).tolist()
        rows["`none`"].append(train(data, seed, hidden))
        for name, groups in (
            ("`soft_tie` of all", [0] * len(GROUPS)),
            ("soft ties, true groups", GROUPS),
            ("soft ties, random groups", random),
            ("soft ties, groups by linkage", linked(data, seed, hidden)),
        ):
            soft = [train(data, seed, hidden, within(groups, strength)) for strength in SOFT]
            rows[name].append(best_of(soft))
            if name.endswith("linkage"):
                linkage_index.append(index(GROUPS, groups))
        for name, groups in (("one copy of all", [0] * len(GROUPS)), ("one copy a group", GROUPS)):

            def share(nets: nn.ModuleDict, groups: Sequence[int] = groups) -> None:
                share_groups(nets, groups)

            rows[name].append(train(data, seed, hidden, prepare=share))
        for edges in get_args(EdgesName):
            for strength in STRENGTHS:
                run = clustered(data, seed, hidden, edges, strength)
                paths[edges, strength].append(run)
                by_chance = fmean(index(random, c) for c in run.clusters.values())
                chance[edges, strength].append(by_chance)
            own = [paths[edges, strength][-1] for strength in STRENGTHS]
            rows[f"`cluster_tie`, {edges}"].append(best_of(own))
        kept = [clustered(data, seed, hidden, "adaptive", x, False) for x in STRENGTHS]
        rows["`cluster_tie`, adaptive, to the end"].append(best_of(kept))
    print_rows(setting, rows, linkage_index)
    print_paths(setting, paths, chance)


def print_rows(
    setting: Setting, rows: dict[str, list[Run]], linkage_index: Sequence[float]
) -> None:
    """Print the accuracies at the strengths that validation chose."""
    print(f"\n{setting}\n")
    print_head("", "accuracy", "− `none`", "− soft ties, true groups", "groups found exactly")
    baseline, oracle = rows["`none`"], rows["soft ties, true groups"]
    for name, runs in rows.items():
        exact = ""
        if "cluster" in name:
            indices = [min(index(GROUPS, c) for c in run.clusters.values()) for run in runs]
            exact = f"{sum(own == 1.0 for own in indices)} of {len(runs)}"
        elif "linkage" in name:
            exact = f"{sum(own == 1.0 for own in linkage_index)} of {len(runs)}"
        differences = [
            mean_of(run.test - other.test for run, other in zip(runs, others, strict=True))
            for others in (baseline, oracle)
        ]
        print_row([name, mean_of(run.test for run in runs), *differences, exact])


def print_paths(
    setting: Setting,
    paths: dict[tuple[EdgesName, float], list[Run]],
    chance: dict[tuple[EdgesName, float], list[float]],
) -> None:
    """Print the index of each layer and the accuracy at each strength."""
    print(f"\n{setting}, adjusted Rand index of the clusters at each strength\n")
    layers = [*next(iter(paths.values()))[0].clusters]
    print_head("edges", "strength", *(f"`{name}`" for name in layers), "random groups", "accuracy")
    for (edges, strength), runs in paths.items():
        found = [mean_of(index(GROUPS, run.clusters[name]) for run in runs) for name in layers]
        random = mean_of(chance[edges, strength])
        print_row([edges, f"{strength:g}", *found, random, mean_of(run.test for run in runs)])


def main() -> None:
    """Print the tables of each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--layers", action="store_true", help="networks with a hidden layer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for setting in get_args(Setting):
        compare(setting, options.seeds, 32 if options.layers else 0)


if __name__ == "__main__":
    main()
