"""Equal rows for near-duplicate inputs, with GrOWL: `python -m benchmarks.growl_synthetic`.

Linear regression with ten outputs, from two groups of five near-duplicate inputs, whose true
coefficients are equal within a group, and twenty inputs of pure noise. Every run draws new data,
true coefficients and initial coefficients, and trains by proximal gradient with each of
`STRENGTHS`; the strength is then chosen on validation data, by the least error or by the
one-standard-error rule (the greatest strength whose error is within one standard error of the
least).

The loss hardly knows the differences between near-duplicates: its curvature along them is 1 −
correlation, and group lasso is content with any split of a sum among parallel rows, so what is
random at the beginning stays. GrOWL forgets where it began; started from zero, where nothing is
random, group lasso's coefficients are as good as GrOWL's.

- spread: the greatest ‖w_i − w_j‖ / max ‖w_k‖ over pairs of rows in a group; the larger of the two
  groups.
- error: ‖W − W*‖ / ‖W*‖ to the true coefficients.
- test: mean squared error on new data, relative to that of the true coefficients.
- noise: how many of the twenty rows of noise are not zero.
- change: `index_change` of the rows that are not zero, between runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

import lit_share as ls
from lit_share.metrics import index_change

GROUPS, SIZE, NOISE, OUTPUTS, SAMPLES = 2, 5, 20, 10, 200
INPUTS = GROUPS * SIZE + NOISE
STRENGTHS = tuple(2 ** (k / 2) / 16 for k in range(8))  # in standard deviations of the noise
PENALTIES = {
    # All rows have the same size, and the strengths are those of plain norms.
    "group lasso": ls.Penalty(norm="l1", groups="input", center="zero", scaled=False),
    # OSCAR on rows: the largest row is weighed twice the smallest
    "GrOWL": ls.Penalty(
        norm="owl",
        groups="input",
        center="zero",
        weights=ls.owl_weights(INPUTS, lambda1=1.0, lambda2=1 / INPUTS),
        scaled=False,
    ),
}


class Problem(NamedTuple):
    """One draw: coefficients of shape ``(OUTPUTS, INPUTS)``, and data ``(x, y)`` of three kinds."""

    true: Tensor
    initial: Tensor
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Fit(NamedTuple):
    """Trained coefficients, and the squared errors of the validation samples."""

    weight: Tensor
    validation: Tensor


def problem(correlation: float, seed: int, noise: float) -> Problem:
    """Outputs of mean standard deviation 1, with noise of standard deviation ``noise`` added."""
    rng = torch.Generator().manual_seed(seed)
    of_groups = torch.randn(OUTPUTS, GROUPS, generator=rng) / (SIZE * math.sqrt(GROUPS))
    true = torch.cat([of_groups.repeat_interleave(SIZE, dim=1), torch.zeros(OUTPUTS, NOISE)], dim=1)
    # as `nn.Linear` begins
    initial = (2.0 * torch.rand(OUTPUTS, INPUTS, generator=rng) - 1.0) / math.sqrt(INPUTS)

    def draw(samples: int) -> tuple[Tensor, Tensor]:
        common = torch.randn(samples, GROUPS, generator=rng).repeat_interleave(SIZE, dim=1)
        own = torch.randn(samples, GROUPS * SIZE, generator=rng)
        grouped = math.sqrt(correlation) * common + math.sqrt(1.0 - correlation) * own
        x = torch.cat([grouped, torch.randn(samples, NOISE, generator=rng)], dim=1)
        return x, x @ true.T + noise * torch.randn(samples, OUTPUTS, generator=rng)

    return Problem(true, initial, draw(SAMPLES), draw(SAMPLES), draw(2000))


@torch.no_grad()
def fit(
    given: Problem, penalty: ls.Penalty, strength: float, iterations: int, from_zero: bool = False
) -> Fit:
    """Run proximal gradient on all training data, with the largest step that converges for sure."""
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False)
    layer.weight.copy_(0.0 * given.initial if from_zero else given.initial)
    ties = ls.Ties("weight").find(layer)
    x, y = given.train
    covariance, target = x.T @ x / len(x), y.T @ x / len(x)
    step = 1.0 / torch.linalg.eigvalsh(covariance)[-1].item()
    for _ in range(iterations):
        layer.weight.sub_(layer.weight @ covariance - target, alpha=step)
        ls.apply_prox(layer, penalty, ties, step=step * strength)
    x, y = given.validation
    return Fit(layer.weight.clone(), (layer(x) - y).square().mean(dim=1))


def least_error(fits: Sequence[Fit]) -> Fit:
    """The fit of least validation error."""
    return min(fits, key=lambda one: one.validation.mean())


def one_standard_error(fits: Sequence[Fit]) -> Fit:
    """Return the strongest fit whose validation error is within one standard error of the least."""
    best = least_error(fits).validation
    limit = best.mean() + best.std() / math.sqrt(len(best))
    return [one for one in fits if one.validation.mean() <= limit][-1]


RULES: dict[str, Callable[[Sequence[Fit]], Fit]] = {
    "least error": least_error,
    "one SE": one_standard_error,
}


def spread(weight: Tensor) -> float:
    """The greatest distance of two rows of a group, relative to its longest row."""
    relative = []
    for rows in weight.T[: GROUPS * SIZE].split(SIZE):
        longest = torch.linalg.vector_norm(rows, dim=1).max()
        relative.append(float((rows[:, None] - rows).norm(dim=-1).max() / longest.clamp_min(1e-30)))
    return max(relative)


def error(weight: Tensor, true: Tensor) -> float:
    """The relative distance to the true coefficients."""
    return float((weight - true).norm() / true.norm())


def measures(given: Problem, weight: Tensor) -> dict[str, float]:
    """What the table shows of one run."""
    x, y = given.test
    of_truth = (x @ given.true.T - y).square().mean()
    return {
        "spread": spread(weight),
        "error": error(weight, given.true),
        "test": float((x @ weight.T - y).square().mean() / of_truth),
        "noise": float((weight[:, GROUPS * SIZE :] != 0).any(dim=0).sum()),
    }


def line(name: str, runs: Sequence[Problem], weights: Sequence[Tensor]) -> str:
    """A row of the table: mean ± standard deviation over runs."""
    table = [measures(given, weight) for given, weight in zip(runs, weights, strict=True)]
    cells = []
    for key, digits in (("spread", 4), ("error", 3), ("test", 3), ("noise", 1)):
        values = torch.tensor([row[key] for row in table])
        cells.append(f"{values.mean():.{digits}f} ± {values.std():.{digits}f}")
    change = index_change(torch.stack([(weight != 0).any(dim=0) for weight in weights]))
    return f"{name:34}" + "".join(f"{cell:>18}" for cell in cells) + f"{change:>9.2f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument(
        "--noise", type=float, default=0.3, help="standard deviation; that of the signal is 1"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    strengths = [arguments.noise * strength for strength in STRENGTHS]
    head = (
        f"{'':34}"
        + "".join(f"{key:>18}" for key in ("spread", "error", "test", "noise"))
        + f"{'change':>9}"
    )

    for correlation in (0.9999, 0.99, 0.9):
        print(f"correlation {correlation}, {arguments.iterations} iterations\n{head}")
        runs = [problem(correlation, seed, arguments.noise) for seed in range(arguments.runs)]
        for name, penalty in PENALTIES.items():
            paths = [
                [fit(given, penalty, s, arguments.iterations) for s in strengths] for given in runs
            ]
            for rule, choose in RULES.items():
                print(
                    line(f"{name}, {rule}", runs, [choose(path).weight for path in paths]),
                    flush=True,
                )
        print()

    print(f"correlation 0.9999, strength {strengths[4]:.3f}: what it depends on\n{head}")
    runs = [problem(0.9999, seed, arguments.noise) for seed in range(arguments.runs)]
    for name, penalty in PENALTIES.items():
        for iterations, from_zero in ((100, False), (500, False), (2500, False), (500, True)):
            weights = [
                fit(given, penalty, strengths[4], iterations, from_zero).weight for given in runs
            ]
            print(
                line(
                    f"{name}, {iterations} from {'zero' if from_zero else 'random'}", runs, weights
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
