"""The mean of several models that were trained apart: `python -m benchmarks.several_apart`.

Two, three and five networks learn disjoint parts of 4,000 MNIST digits, for ten seeds, and are
merged without further training. Their units are left as they are, or brought into the order of the
first network, or into that which is nearest to the mean of all. As a control, networks that start
from the same weights are merged, too.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict

import torch

import lit_share as ls
from benchmarks._apart import all_ties, digits, merged, mlp, score, trained, weighted_layers
from benchmarks._tables import mean_of, print_head, print_row

SEEDS, EPOCHS = 10, 12
NETWORKS = (2, 3, 5)

# Accuracies of each seed, by what was merged.
Found = dict[str, list[float]]


def measure(networks: int, seeds: int, epochs: int) -> Found:
    """Return the accuracy of the networks and of their mean."""
    found: Found = defaultdict(list)
    for seed in range(seeds):
        data = digits(seed, networks)
        apart, same_start = (trained(mlp, data, seed, same, epochs) for same in (False, True))
        found["each by itself"].append(score(apart, data.tests).accuracy)
        first, mean = copy.deepcopy(apart), copy.deepcopy(apart)
        images = data.parts[0].images[:500]
        ls.align(first, all_ties(first), images, reference="first")
        ls.align(mean, all_ties(mean), images, reference="mean")
        for name, nets in {
            "mean, as trained": apart,
            "mean, aligned to the first": first,
            "mean, aligned to the mean": mean,
            "mean, from the same start": same_start,
        }.items():
            for repaired in (False, True):
                one = merged(nets, data, len(weighted_layers(nets)), repaired)
                found[name + ", repaired" * repaired].append(score(one, data.tests).accuracy)
    return found


def main() -> None:
    """Print a table with a column for each number of networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = [measure(networks, options.seeds, options.epochs) for networks in NETWORKS]
    print_head("accuracy", *(f"{networks} networks" for networks in NETWORKS))
    for name in columns[0]:
        print_row([name, *(mean_of(found[name]) for found in columns)])


if __name__ == "__main__":
    main()
