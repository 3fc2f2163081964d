"""Stability of the selection of a sparse classifier: `python -m benchmarks.lasso_stability`.

The 30 measurements of the breast cancer data come in families that hardly differ (radius, perimeter
and area of the same cells). Logistic regression is trained on 100 patients; every run draws as many
of these with replacement. Of a family lasso keeps one member or another; GrOWL, whose rows here are
single measurements, brings the weights of the family together.

Every run trains by accelerated proximal gradient with each of `STRENGTHS`; the strength is then
chosen on validation data, by the least loss or by the one-standard-error rule (the greatest
strength whose loss is within one standard error of the least). Who selects more of the 30 agrees
more by chance alone, so compare `jaccard` with `chance`.

- selected: how many weights are not zero.
- values: how many different magnitudes they have.
- jaccard: of the selected sets of two runs, mean over pairs; its interval is from leaving out one
  run at a time.
- chance: the same for random sets of the same sizes.
- change: `index_change`, likewise.
- test: accuracy on test data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lit_share as ls
from benchmarks.growl_synthetic import one_standard_error
from lit_share.lab.data import breast_cancer, standardised
from lit_share.lab.data._split import split
from lit_share.lab.report import estimate
from lit_share.metrics import SelectionStability

INPUTS = 30
STRENGTHS = tuple(2**k / 1024 for k in range(9))  # 0.001 to 0.25


def _growl(ramp: float) -> ls.Penalty:
    """Weights whose ratio of greatest to smallest is 1 + ``ramp``, and whose mean is 1."""
    weights = ls.owl_weights(INPUTS, lambda1=1.0, lambda2=ramp / INPUTS)
    return ls.Penalty(norm="owl", groups="input", center="zero", weights=weights / weights.mean())


PENALTIES = {
    "lasso": ls.Penalty(norm="l1", groups="element", center="zero"),
    "GrOWL, ramp 1": _growl(1.0),
    "GrOWL, ramp 10": _growl(10.0),
}


class Problem(NamedTuple):
    """Standardised measurements ``(patients, 30)`` and 0 or 1, of three kinds."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Fit(NamedTuple):
    """A trained model, and the losses of the validation patients."""

    weight: Tensor
    bias: Tensor
    validation: Tensor


def problem(seed: int, patients: int) -> Problem:
    """One bootstrap sample; patients, validation and test data are the same for all seeds."""
    arrays = breast_cancer()
    parts = split(arrays.labels, {"test": 200, "validation": 150, "train": patients}, seed=0)
    parts["train"] = np.random.default_rng(seed).choice(parts["train"], patients)
    inputs = torch.from_numpy(standardised(arrays.inputs, using=parts["train"]))
    labels = torch.from_numpy(arrays.labels).float()
    return Problem(*((inputs[parts[name]], labels[parts[name]]) for name in Problem._fields))


def path(given: Problem, penalty: ls.Penalty, iterations: int) -> list[Fit]:
    """The fits of all strengths: accelerated proximal gradient on the whole of the training data.

    Each starts where the next greater strength ended, and takes steps that are sure to converge.
    """
    layer = nn.Linear(INPUTS, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    ties = ls.Ties("weight").find(layer)
    x, y = given.train
    with_bias = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    step = 4.0 * len(x) / torch.linalg.matrix_norm(with_bias, ord=2).item() ** 2
    fits = []
    for strength in reversed(STRENGTHS):
        before = [parameter.detach().clone() for parameter in layer.parameters()]
        for k in range(iterations):
            layer.zero_grad()
            F.binary_cross_entropy_with_logits(layer(x).squeeze(1), y).backward()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= step * parameter.grad
                ls.apply_prox(layer, penalty, ties, step=step * strength)
                now = [parameter.clone() for parameter in layer.parameters()]
                if (
                    k < iterations - 1
                ):  # Nesterov's momentum; the last step is the prox, whose zeros are exact
                    for parameter, old in zip(layer.parameters(), before, strict=True):
                        parameter += k / (k + 3) * (parameter - old)
            before = now
        with torch.no_grad():
            x_validation, y_validation = given.validation
            losses = F.binary_cross_entropy_with_logits(
                layer(x_validation).squeeze(1), y_validation, reduction="none"
            )
        fits.append(Fit(now[0][0], now[1], losses))
    return fits[::-1]


def least_loss(fits: Sequence[Fit]) -> Fit:
    """The fit of least validation loss."""
    return min(fits, key=lambda one: one.validation.mean())


RULES: dict[str, Callable[[Sequence[Fit]], Fit]] = {
    "least loss": least_loss,
    "one SE": one_standard_error,
}


def accuracy(one: Fit, data: tuple[Tensor, Tensor]) -> float:
    """The fraction of patients that are classified rightly."""
    x, y = data
    return float(((x @ one.weight + one.bias > 0) == y.bool()).float().mean())


def stability(selections: Tensor) -> dict[str, float]:
    """Jaccard's index and the index change of some runs' selections, shape ``(runs, inputs)``."""
    metric = SelectionStability()
    for selected in selections:
        metric.update(selected)
    return {name: float(value) for name, value in metric.compute().items()}


def jackknife(selections: Tensor, key: str) -> str:
    """The number with its 95 % interval, by leaving out each run: pairs are not independent."""
    runs = len(selections)
    without = [stability(selections[torch.arange(runs) != r])[key] for r in range(runs)]
    return f"{stability(selections)[key]:.2f} ± {1.96 * np.sqrt((runs - 1) * np.var(without)):.2f}"


def chance(selections: Tensor) -> float:
    """Jaccard's index of random selections of the same sizes."""
    rng = torch.Generator().manual_seed(0)
    draws = [
        torch.stack([row[torch.randperm(INPUTS, generator=rng)] for row in selections])
        for _ in range(20)
    ]
    return float(np.mean([stability(drawn)["jaccard"] for drawn in draws]))


def line(name: str, runs: Sequence[Problem], fits: Sequence[Fit]) -> str:
    """A row of the table."""
    selections = torch.stack([one.weight != 0 for one in fits])
    values = [
        len({f"{magnitude:.4g}" for magnitude in one.weight.abs().tolist() if magnitude})
        for one in fits
    ]
    cells = [
        str(estimate(selections.sum(dim=1).tolist())),
        str(estimate(values)),
        jackknife(selections, "jaccard"),
        f"{chance(selections):.2f}",
        jackknife(selections, "index_change"),
        str(estimate([accuracy(one, given.test) for one, given in zip(fits, runs, strict=True)])),
    ]
    return f"{name:28}" + "".join(f"{cell:>16}" for cell in cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [problem(seed, arguments.patients) for seed in range(arguments.runs)]
    print(
        f"{arguments.runs} bootstrap samples of {arguments.patients} patients, mean ± 95 % interval"
    )
    print(
        f"{'':28}"
        + "".join(
            f"{key:>16}" for key in ("selected", "values", "jaccard", "chance", "change", "test")
        )
    )
    for name, penalty in PENALTIES.items():
        paths = [path(given, penalty, arguments.iterations) for given in runs]
        for rule, choose in RULES.items():
            print(line(f"{name}, {rule}", runs, [choose(path) for path in paths]), flush=True)


if __name__ == "__main__":
    main()
