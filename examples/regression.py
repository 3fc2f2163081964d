"""Three regressions on a table: do models of three ages gain from each other?

Question: 442 patients with diabetes have ten measurements, and how far the disease progressed
within a year. Each third by age gets a model of its own, with 20 patients to learn from. Is it
better to pull the weights of each to zero, to pull them to their mean, or to store one model?

It prints the squared error of test patients (1 is that of the mean), averaged over the ages, for 6
draws of patients; strengths were chosen on validation patients. `train.py` asks the same with one
line: python train.py -m experiment=three_regressions
"""

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate

AGES = ("young", "middle", "old")
TIES = ls.Ties("young.*", "middle.*", "old.*")
STRENGTHS, SEEDS = (0.1, 1.0), range(6)
VALIDATION, TEST = slice(20, 67), slice(67, None)  # of each age; the first 20 train
X, Y = load_diabetes(return_X_y=True)


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Measurements and progressions of each age, standardised by the patients who train."""
    thirds = np.array_split(np.argsort(X[:, 0], kind="stable"), 3)
    rng = np.random.default_rng(seed)
    rows = {age: rng.permutation(third) for age, third in zip(AGES, thirds, strict=True)}
    train = np.concatenate([own[:20] for own in rows.values()])
    x, y = ((values - values[train].mean(0)) / values[train].std(0) for values in (X, Y))
    return {age: (torch.tensor(x[own]), torch.tensor(y[own])) for age, own in rows.items()}


def errors(seed: int, center: str | None = None, strength: float = 0.0) -> tuple[float, float]:
    """Mean error of the three on validation and test patients; one model without a center."""
    ages = data(seed)
    models = nn.ModuleDict({age: nn.Linear(10, 1, dtype=torch.float64) for age in AGES})
    for parameter in models.parameters():
        nn.init.zeros_(parameter)
    if center is None:
        ls.share(models, TIES)
    penalty = ls.Penalty(norm="squared", groups="element", center=center or "mean")
    ties = TIES.find(models)
    optimizer = torch.optim.Adam(models.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        losses = [
            (models[age](x[:20])[:, 0] - y[:20]).square().mean() for age, (x, y) in ages.items()
        ]
        torch.stack(losses).sum().backward()
        ls.add_penalty_gradient(models, penalty, ties, strength)  # the line that pulls
        optimizer.step()
    with torch.no_grad():
        squares = [(models[age](x)[:, 0] - y).square() for age, (x, y) in ages.items()]
    validation, test = (
        torch.stack([own[part].mean() for own in squares]).mean() for part in (VALIDATION, TEST)
    )
    return float(validation), float(test)


def chosen(center: str) -> Tensor:
    """Test error of each seed at the strength that is best for its validation patients."""
    runs = torch.tensor([[errors(seed, center, s) for seed in SEEDS] for s in STRENGTHS])
    validation, test = runs.unbind(dim=-1)
    return test.gather(0, validation.argmin(dim=0, keepdim=True))[0]


if __name__ == "__main__":
    results = {"apart": torch.tensor([errors(seed, "mean")[1] for seed in SEEDS])}
    results |= {"pulled to zero": chosen("zero"), "pulled to their mean": chosen("mean")}
    results["one model"] = torch.tensor([errors(seed)[1] for seed in SEEDS])
    for name, test in results.items():
        less = estimate((results["apart"] - test).tolist())
        print(f"{name:<21} error {estimate(test.tolist())!s:<15} less than apart by {less}")
