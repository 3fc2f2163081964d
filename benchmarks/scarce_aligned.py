"""A model with few images, tied to one with many: `python -m benchmarks.scarce_aligned`.

Model A learns 3,000 MNIST digits. Model B has 50, and has learned them by itself before it is tied
to A and both train on. B has weights of its own, whose units are aligned with A's or are not; as
controls it starts from the initial weights of A, or from the weights that A has learned. Images of
A are upright, those of B rotated by 20 degrees; as another control the labels of A are shuffled, so
that nothing can be learned from A. The strength is the one with which B is best on validation
images. For ten seeds, the accuracy of B on test images is reported, and which fraction of its
numbers are exactly those of A, so that they can be stored once; for ties that become exact, with
each strength.
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lit_share as ls
from benchmarks._tables import mean_of, print_head, print_row
from lit_share.lab.data import PairedDomains
from lit_share.lab.models import MLP

SEEDS = 10
TIES = ls.Ties("a.*", "b.*")
N_A, N_B, BATCH = 3000, 50, 50
LEARNING_RATE, STEPS_OF_A, STEPS = 0.05, 600, 150
# Strengths to choose from; `none` and `hard_tie` have none.
STRENGTHS = {
    "none": (0.0,),
    "hard_tie": (0.0,),
    "soft_tie": (0.003, 0.03, 0.3, 3.0),
    "follow": (0.003, 0.03, 0.3, 3.0),
    "l2_sp": (0.003, 0.03, 0.3, 3.0),
    "exact_tie": (0.001, 0.003, 0.01, 0.03, 0.1),
    "layer_tie": (0.001, 0.003, 0.01, 0.03, 0.1),
}
BECOMING_EXACT = ("exact_tie", "layer_tie")
# Whether the labels of A are shuffled.
SETTINGS = {"rotated digits": False, "rotated digits, labels of A shuffled": True}
STARTS = (
    "own weights",
    "own, aligned by weights",
    "own, aligned by activations",
    "A's initial weights",
    "A's weights",
)

Batch = tuple[Tensor, Tensor]


class Run(NamedTuple):
    """What B came to with one strength."""

    validation: float
    accuracy: float
    equal: float


class Data:
    """Images and labels of A and B; training images of A come in batches."""

    def __init__(self, seed: int, shuffled: bool) -> None:
        data = PairedDomains("mnist", "rotated", None, N_A, N_B, 500, 1000, N_A, seed)
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        self.train, self.validation, self.test = (
            {name: joined(loader) for name, loader in part.items()} for part in loaders
        )
        if shuffled:
            images, labels = self.train["a"]
            order = torch.randperm(N_A, generator=torch.Generator().manual_seed(seed))
            self.train["a"] = images, labels[order]

    def batch(self, name: str, generator: torch.Generator) -> Batch:
        """Return all images of B, or a batch of A's."""
        images, labels = self.train[name]
        if name == "b":
            return images, labels
        own = torch.randint(N_A, (BATCH,), generator=generator)
        return images[own], labels[own]


def joined(loader: torch.utils.data.DataLoader[Batch]) -> Batch:
    """Return all batches as one."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def train(
    pair: nn.ModuleDict,
    data: Data,
    names: Sequence[str],
    steps: int,
    recipe: str = "none",
    strength: float = 0.0,
) -> None:
    """Train the named models with SGD."""
    parameters = ls.unique_parameters(p for name in names for p in pair[name].parameters())
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9)
    penalty = None
    if strength:
        penalty = ls.PenaltySteps(recipe, TIES, strength)
        penalty.attach(pair, optimizer)
    # All strategies see the same batches.
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        for name in names:
            images, labels = data.batch(name, generator)
            F.cross_entropy(pair[name](images), labels).backward()
        if penalty:
            penalty.before_step()
        optimizer.step()
        if penalty:
            penalty.after_step()


def starts(data: Data, seed: int) -> dict[str, nn.ModuleDict]:
    """Return A, trained, and B with each kind of weights, trained on its images."""
    torch.manual_seed(seed)
    nets = [MLP((1, 28, 28), 10, (64, 64)) for _ in range(2)]
    pair = nn.ModuleDict(dict(zip("ab", nets, strict=True)))
    initial = copy.deepcopy(pair["a"].state_dict())
    train(pair, data, "a", STEPS_OF_A)
    found = {name: copy.deepcopy(pair) for name in STARTS}
    images = data.train["a"][0][:500]
    found["A's initial weights"]["b"].load_state_dict(initial)
    found["A's weights"]["b"].load_state_dict(pair["a"].state_dict())
    for name, own in found.items():
        if name != "A's weights":
            train(own, data, "b", STEPS)
        if "aligned" in name:
            ls.align(own, TIES, images, by=name.rpartition(" ")[2])
    return found


@torch.no_grad()
def accuracy(pair: nn.ModuleDict, batch: Batch) -> float:
    """Return the accuracy of B."""
    images, labels = batch
    return float((pair["b"](images).argmax(1) == labels).double().mean())


def tied(start: nn.ModuleDict, data: Data, recipe: str, strength: float, steps: int = STEPS) -> Run:
    """Tie both models and train them on."""
    pair = copy.deepcopy(start)
    if recipe == "hard_tie":
        ls.share(pair, TIES)
    train(pair, data, "ab", steps, recipe, strength)
    both = list(zip(pair["a"].parameters(), pair["b"].parameters(), strict=True))
    equal = sum(int((a == b).sum()) for a, b in both) / sum(a.numel() for a, _ in both)
    return Run(accuracy(pair, data.validation["b"]), accuracy(pair, data.test["b"]), equal)


# What each strength comes to, by strategy and start, for each seed.
Found = dict[str, dict[str, list[list[Run]]]]


def measure(shuffled: bool, seeds: int) -> Found:
    """Tie with all strategies and strengths from all starts."""
    found: Found = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        data = Data(seed, shuffled)
        for name, pair in starts(data, seed).items():
            found["mean of both"][name].append([tied(pair, data, "hard_tie", 0.0, steps=0)])
            for recipe, strengths in STRENGTHS.items():
                runs = [tied(pair, data, recipe, strength) for strength in strengths]
                found[recipe][name].append(runs)
    return found


def chosen(seeds: Sequence[Sequence[Run]]) -> list[Run]:
    """Return each seed's best run on validation images; of equals, that of the least strength."""
    return [max(runs, key=lambda run: run.validation) for runs in seeds]


def accuracy_of(runs: Sequence[Run]) -> str:
    """Return the mean accuracy over seeds."""
    return mean_of(run.accuracy for run in runs)


def percent_equal(runs: Sequence[Run]) -> str:
    """Return the mean percentage of equal numbers over seeds."""
    return f"{100 * fmean(run.equal for run in runs):.0f} %"


def print_tables(setting: str, found: Found) -> None:
    """Print accuracies with the chosen strength, and with each of ties that become exact."""
    print(f"\n{setting}, accuracy of B\n")
    print_head("", *STARTS)
    for recipe, by_start in found.items():
        print_row([recipe, *(accuracy_of(chosen(by_start[start])) for start in STARTS)])
    print(f"\n{setting}, numbers of B that equal those of A\n")
    print_head("", *STARTS)
    for recipe in ("none", *BECOMING_EXACT):
        columns = [chosen(found[recipe][start]) for start in STARTS]
        print_row([recipe, *map(percent_equal, columns)])
    print(f"\n{setting}, accuracy of B and equal numbers with each strength\n")
    print_head("", *STARTS)
    for recipe in BECOMING_EXACT:
        for number, strength in enumerate(STRENGTHS[recipe]):
            columns = [[runs[number] for runs in found[recipe][start]] for start in STARTS]
            cells = [f"{accuracy_of(runs)}, {percent_equal(runs)}" for runs in columns]
            print_row([f"{recipe} {strength:g}", *cells])


def main() -> None:
    """Print three tables for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    for setting, shuffled in SETTINGS.items():
        print_tables(setting, measure(shuffled, seeds))


if __name__ == "__main__":
    main()
