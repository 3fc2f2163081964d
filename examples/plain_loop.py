"""A plain PyTorch loop: which units of two networks can be equal?

Question: digits in grey (500 images) and in black and white (50). `unit_tie` penalises the distance
of each unit of one network to the same unit of the other, by a proximal step that makes units
*exactly* equal. How many can be equal, and what does it gain in accuracy and on disk?

One line in the loop is new. It prints a line for each strength: the accuracy on validation and test
images of the network with 50 images, the fraction of numbers that are equal, and the bytes of a
compact file, which stores equal units once.
"""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate

LR = 0.003


def train(strength: float, seed: int) -> list[float]:
    """Accuracy on validation and test images, share of equal numbers, and bytes."""
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(y))
    grey, y = (x[order] / 16).float(), y[order]
    binary = (grey > 0.5).float()

    def loss(net: nn.Module, images: Tensor, which: slice) -> Tensor:
        return nn.functional.cross_entropy(net(images[which]), y[which])

    first = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    nets = nn.ModuleDict({"grey": first, "binary": copy.deepcopy(first)})
    ties = ls.Ties("grey.*", "binary.*")
    found = ties.find(nets)  # once, not in every step
    optimizer = torch.optim.Adam(nets.parameters(), lr=LR)
    for _ in range(300):
        optimizer.zero_grad()
        (
            loss(nets["grey"], grey, slice(0, 500)) + loss(nets["binary"], binary, slice(500, 550))
        ).backward()
        optimizer.step()
        ls.apply_prox(nets, "unit_tie", found, step=LR * strength)  # the new line

    numbers = ls.sharing_stats(nets, ties)
    ls.share(nets, ties, where="equal")  # equal tensors are stored once from now on
    with TemporaryDirectory() as folder:
        ls.save_compact(nets, file := Path(folder) / "nets.safetensors")
        size = file.stat().st_size
    with torch.no_grad():
        right = (nets["binary"](binary).argmax(dim=1) == y).float()
    equal = 2 * (1 - numbers.unique / numbers.total)
    return [float(right[600:800].mean()), float(right[800:].mean()), equal, size]


if __name__ == "__main__":
    print("strength  validation       test             equal   bytes")
    for strength in (0.0, 0.1, 0.3, 1.0):
        validation, test, equal, size = zip(
            *(train(strength, seed) for seed in range(4)), strict=True
        )
        shares = f"{sum(equal) / 4:6.1%}  {sum(size) / 4:6,.0f}"
        print(f"{strength:<9g} {estimate(validation)!s:<16} {estimate(test)!s:<16} {shares}")
