"""Which of six sites belong together: `python -m benchmarks.who_belongs`.

Six linear models learn scikit-learn's digits with 50 images each, for ten seeds. Two groups of
three conflict: *inverted*, black and white are swapped in one of them; *labels*, its classes are
numbered differently. ``cluster_tie`` trains the members alone for a while, ties them with edges of
adaptive weights, stores exactly equal tensors once, and continues without the penalty. The table
says, for each strength, how well the clusters are the planted groups (adjusted Rand index: 1 if
they are the same, 0 on average for groups at random), and the accuracy. *same* is the control: all
six belong together.

Its controls: edges of one weight (``all``); groups of random members, which are compared with the
clusters as the planted ones are; clusters of the distances after training apart, by average
linkage; and the planted groups themselves, as soft ties and as one copy each.

``--layers`` has networks with a hidden layer, and the index of each layer.

Source of the index: Hubert, Arabie: *Comparing Partitions*, Journal of Classification 1985.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, get_args

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score
from torch import nn

import lit_share as ls
from benchmarks._six_sites import (
    ALONE,
    LR,
    MOMENTUM,
    NAMES,
    SHARED,
    Run,
    Sites,
    best_of,
    loss,
    networks,
    shared_in,
    sites,
    ties,
    train,
    within,
)
from benchmarks._tables import differences, mean_of, print_head, print_row

SEEDS, HIDDEN = 10, 32
TWO, ONE = (0, 0, 0, 1, 1, 1), (0,) * 6
ORACLE = "soft ties, true groups"
# Of cluster_tie, and of soft ties.
STRENGTHS = (0.003, 0.006, 0.012, 0.017, 0.024, 0.034, 0.05, 0.1, 0.2)
SOFT = (0.001, 0.01, 0.03, 0.1, 0.3)

Setting = Literal["inverted", "labels", "same"]
Weighting = Literal["adaptive", "all"]


def others(setting: Setting) -> dict[str, dict[str, object]]:
    """Return the arguments of `ManyDomains` in which the sites of the second group differ."""
    own: dict[Setting, dict[str, object]] = {
        "inverted": {"domain": "inverted"},
        "labels": {"labels": [*range(5, 10), *range(5)]},
        "same": {},
    }
    return {name: own[setting] for name, group in zip(NAMES, TWO, strict=True) if group}


def clustered(
    data: Sites,
    seed: int,
    hidden: int,
    edges: Weighting,
    strength: float,
    stores_clusters: bool = True,
) -> Run:
    """Find clusters by the penalty, and continue with one copy of each, if they are stored."""
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
        loss(nets, data.train).backward()
        optimizer.step()
    vectors = [nn.utils.parameters_to_vector(nets[name].parameters()).detach() for name in NAMES]
    distances = torch.cdist(torch.stack(vectors), torch.stack(vectors)).double().numpy()
    condensed = squareform(distances, checks=False)
    return [int(label) for label in fcluster(linkage(condensed, "average"), 2, "maxclust")]


def index(groups: Sequence[int], labels: Sequence[int]) -> float:
    """Return the adjusted Rand index of two groupings."""
    return float(adjusted_rand_score(groups, labels))


def soft_in(groups: Sequence[int], data: Sites, seed: int, hidden: int) -> Run:
    """Train with soft ties within groups, at the strength that validation chooses."""
    return best_of(train(data, seed, hidden, within(groups, strength)) for strength in SOFT)


def compare(setting: Setting, seeds: int, hidden: int) -> None:
    """Print the tables of a setting."""
    planted = TWO
    if setting == "same":
        planted = ONE
    rows: dict[str, list[Run]] = defaultdict(list)
    paths: dict[tuple[Weighting, float], list[Run]] = defaultdict(list)
    chance: dict[tuple[Weighting, float], list[float]] = defaultdict(list)
    found_by_linkage = []
    for seed in range(seeds):
        data = sites(others(setting), seed)
        own = data, seed, hidden
        random = np.random.default_rng(seed).permutation(TWO).tolist()
        found = linked(*own)
        found_by_linkage.append(index(planted, found))
        rows["`none`"].append(train(*own))
        rows["`soft_tie` of all"].append(soft_in(ONE, *own))
        rows[ORACLE].append(soft_in(planted, *own))
        rows["soft ties, random groups"].append(soft_in(random, *own))
        rows["soft ties, groups by linkage"].append(soft_in(found, *own))
        rows["one copy of all"].append(shared_in(ONE, *own))
        rows["one copy a group"].append(shared_in(planted, *own))
        for edges in get_args(Weighting):
            runs = [clustered(*own, edges, strength) for strength in STRENGTHS]
            rows[f"`cluster_tie`, {edges}"].append(best_of(runs))
            for strength, run in zip(STRENGTHS, runs, strict=True):
                paths[edges, strength].append(run)
                by_chance = fmean(index(random, labels) for labels in run.clusters.values())
                chance[edges, strength].append(by_chance)
        kept = [clustered(*own, "adaptive", strength, False) for strength in STRENGTHS]
        rows["`cluster_tie`, adaptive, to the end"].append(best_of(kept))
    print_rows(setting, planted, rows, found_by_linkage)
    print_paths(setting, planted, paths, chance)


def print_rows(
    setting: Setting,
    planted: Sequence[int],
    rows: dict[str, list[Run]],
    found_by_linkage: Sequence[float],
) -> None:
    """Print the accuracies at the strengths that validation chose."""
    print(f"\n{setting}\n")
    print_head("", "accuracy", "− `none`", f"− {ORACLE}", "groups found exactly")
    baselines = [[run.test for run in rows[name]] for name in ("`none`", ORACLE)]
    for name, runs in rows.items():
        exact = ""
        if "cluster" in name:
            indices = [min(index(planted, c) for c in run.clusters.values()) for run in runs]
            exact = f"{sum(own == 1.0 for own in indices)} of {len(runs)}"
        elif "linkage" in name:
            exact = f"{sum(own == 1.0 for own in found_by_linkage)} of {len(runs)}"
        tests = [run.test for run in runs]
        print_row([name, mean_of(tests), *differences(tests, *baselines), exact])


def print_paths(
    setting: Setting,
    planted: Sequence[int],
    paths: dict[tuple[Weighting, float], list[Run]],
    chance: dict[tuple[Weighting, float], list[float]],
) -> None:
    """Print the index and the number of clusters of each layer, and the accuracy."""
    print(f"\n{setting}, adjusted Rand index (number of clusters) at each strength\n")
    layers = [*next(iter(paths.values()))[0].clusters]
    print_head("edges", "strength", *(f"`{name}`" for name in layers), "random groups", "accuracy")
    for (edges, strength), runs in paths.items():
        found = []
        for name in layers:
            labels = [run.clusters[name] for run in runs]
            count = fmean(len(set(own)) for own in labels)
            found.append(f"{mean_of(index(planted, own) for own in labels)} ({count:.1f})")
        random = mean_of(chance[edges, strength])
        print_row([edges, f"{strength:g}", *found, random, mean_of(run.test for run in runs)])


def main() -> None:
    """Print the tables of each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", choices=get_args(Setting), help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--layers", action="store_true", help="networks with a hidden layer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for setting in options.settings or get_args(Setting):
        compare(setting, options.seeds, hidden=HIDDEN if options.layers else 0)


if __name__ == "__main__":
    main()
