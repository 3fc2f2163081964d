"""One of six sites is rotten: `python -m benchmarks.one_rotten_site`.

Six linear models learn scikit-learn's digits with 50 images each, for ten seeds. *shuffled*: the
labels of the last site are shuffled; *inverted*: black and white are swapped there; *none*: no site
is rotten. ``robust_tie`` pulls members to a free center, which they leave one by one;
``cluster_tie`` and ``soft_tie`` have the same strengths to choose from, by the mean accuracy of all
six sites on validation images, as nobody knows which is rotten. The accuracy is that of the other
five on test images. Their own soft ties, as if the rotten site were known, are what is possible.

Source: Duan, Wang: *Adaptive and Robust Multi-Task Learning*, Annals of Statistics 2023.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Literal, get_args

import torch

import lit_share as ls
from benchmarks._six_sites import (
    ALONE,
    NAMES,
    Run,
    Sites,
    best_of,
    shared_in,
    sites,
    ties,
    train,
    within,
)
from benchmarks._tables import differences, mean_of, print_head, print_row

SEEDS = 10
ROTTEN, HEALTHY = NAMES[-1], NAMES[:-1]
STRENGTHS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.06, 0.1, 0.3)
# Steps before a penalty acts: edges of adaptive weights need distances.
BEGIN = {"soft_tie": 0, "robust_tie": 0, "cluster_tie": ALONE}
ALONE_WHERE_ROTTEN = (*[0] * len(HEALTHY), 1)
COPIES = {"one copy of all": (0,) * len(NAMES), "one copy of the other five": ALONE_WHERE_ROTTEN}

Setting = Literal["shuffled", "inverted", "none"]


def rotten_sites(setting: Setting, seed: int) -> Sites:
    """Return six sites, of which the last is rotten."""
    data = sites({ROTTEN: {"domain": "inverted"}} if setting == "inverted" else {}, seed)
    if setting == "shuffled":
        generator = torch.Generator().manual_seed(seed)
        for part in data:
            images, labels = part[ROTTEN]
            part[ROTTEN] = images, labels[torch.randperm(len(labels), generator=generator)]
    return data


def tied(data: Sites, seed: int, recipe: str, strength: float) -> Run:
    """Train with a recipe."""
    schedule = None
    if BEGIN[recipe]:
        schedule = ls.Ramp(duration=1, begin=BEGIN[recipe])
    steps = ls.PenaltySteps(recipe, ties(), strength, schedule=schedule)
    return train(data, seed, penalty=steps, tested=HEALTHY)


def left(run: Run) -> bool:
    """Whether all members but the rotten one are equal, in all layers."""
    return all(tuple(own) == ALONE_WHERE_ROTTEN for own in run.clusters.values())


def compare(setting: Setting, seeds: int) -> None:
    """Print the table of a setting."""
    rows: dict[str, list[Run]] = defaultdict(list)
    for seed in range(seeds):
        data = rotten_sites(setting, seed)
        rows["`none`"].append(train(data, seed, tested=HEALTHY))
        for recipe in BEGIN:
            runs = [tied(data, seed, recipe, strength) for strength in STRENGTHS]
            rows[f"`{recipe}`"].append(best_of(runs))
        soft = [
            train(data, seed, penalty=within(ALONE_WHERE_ROTTEN, strength), tested=HEALTHY)
            for strength in STRENGTHS
        ]
        rows["`soft_tie` of the other five"].append(best_of(soft))
        for name, groups in COPIES.items():
            rows[name].append(shared_in(groups, data, seed, tested=HEALTHY))
    print(f"\nrotten: {setting}\n")
    print_head("", "accuracy of the other five", "− `none`", "− `soft_tie`", "last site left")
    baselines = [[run.test for run in rows[name]] for name in ("`none`", "`soft_tie`")]
    for name, own in rows.items():
        tests = [run.test for run in own]
        count = f"{sum(map(left, own))} of {len(own)}"
        print_row([name, mean_of(tests), *differences(tests, *baselines), count])


def main() -> None:
    """Print a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for setting in get_args(Setting):
        compare(setting, options.seeds)


if __name__ == "__main__":
    main()
