"""Three sites that are pulled to their mean: mean-regularised multi-task learning.

Question: three offices read handwritten digits. One scans in grey, one in black and white, one has
its paper askew, and each has 40 labelled images. Is it better to pull each office's weights to
zero, as usual, to pull them to the mean of the three, or to train one model for all?

It prints the accuracy on test images, averaged over the offices, for 6 draws of images; strengths
were chosen on validation images.
"""

import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate

SITES = ("grey", "binary", "askew")
TIES = ls.Ties("grey.*", "binary.*", "askew.*")  # as many members as there are patterns
STRENGTHS, SEEDS = (0.0, 0.001, 0.01, 0.1), range(6)
IMAGES, LABELS = load_digits(return_X_y=True)


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of each office; no digit is seen by two of them."""
    images = IMAGES.reshape(-1, 8, 8) / 16
    seen = {
        "grey": images,
        "binary": images > 0.5,
        "askew": rotate(images, 20, axes=(1, 2), reshape=False, order=1),
    }
    own = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))[:1797].view(
        3, -1
    )
    x = {site: torch.from_numpy(array).float().flatten(1) for site, array in seen.items()}
    return {
        site: (x[site][rows], torch.from_numpy(LABELS)[rows])
        for site, rows in zip(SITES, own, strict=True)
    }


def accuracies(seed: int, center: str | None = None, strength: float = 0.0) -> tuple[float, float]:
    """Mean accuracy of the three on validation and test images; one joint model without center."""
    sites = data(seed)
    models = nn.ModuleDict({site: nn.Linear(64, 10) for site in SITES})
    for parameter in models.parameters():
        nn.init.zeros_(parameter)
    if center is None:
        ls.share(models, TIES)
    penalty = ls.Penalty(norm="squared", groups="element", center=center or "mean")
    ties = TIES.find(models)
    optimizer = torch.optim.Adam(models.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        losses = [
            nn.functional.cross_entropy(models[site](x[:40]), y[:40])
            for site, (x, y) in sites.items()
        ]
        torch.stack(losses).sum().backward()
        ls.add_penalty_gradient(models, penalty, ties, strength)  # the line that pulls
        optimizer.step()
    with torch.no_grad():
        right = torch.stack(
            [(models[site](x).argmax(dim=1) == y).float() for site, (x, y) in sites.items()]
        )
    return float(right[:, 40:80].mean()), float(right[:, 80:].mean())


def chosen(center: str) -> Tensor:
    """Test accuracy of each seed at the strength that is best for its validation images."""
    runs = torch.tensor(
        [[accuracies(seed, center, strength) for seed in SEEDS] for strength in STRENGTHS]
    )
    validation, test = runs.unbind(dim=-1)
    return test.gather(0, validation.argmax(dim=0, keepdim=True))[0]


if __name__ == "__main__":
    results = {"pulled to zero": chosen("zero"), "pulled to their mean": chosen("mean")}
    results["one model"] = torch.tensor([accuracies(seed)[1] for seed in SEEDS])
    for name, test in results.items():
        gain = estimate((test - results["pulled to zero"]).tolist())
        print(f"{name:<21} accuracy {estimate(test.tolist())!s:<15} gain {gain}")
