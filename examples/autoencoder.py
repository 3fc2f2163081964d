"""Transposed ties: should a decoder be the encoder's transpose?

Question: an autoencoder learns 16 features of 8×8 digits from 100 images. Its decoder can be a
matrix of its own, be pulled towards the transposed encoder, or be that transpose. A pattern that
ends in `.T` says so.

It prints the reconstruction error on test images over 5 seeds, at the strength that validation
images chose, and how many numbers are stored.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import lit_share as ls
from lit_share.lab.report import estimate

TIES = ls.Ties("encoder.weight", "decoder.weight.T")
STRENGTHS, SEEDS = (0.0, 0.0003, 0.001, 0.003), range(5)


class Autoencoder(nn.Sequential):
    """64 pixels, 16 features, 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.relu, self.decoder = nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64)


def errors(seed: int, strength: float = 0.0, one: bool = False) -> tuple[float, float, int]:
    """Error on validation images and on test images, and numbers stored."""
    torch.manual_seed(seed)
    x = torch.from_numpy(load_digits().data).float()[torch.randperm(1797)] / 16
    model = Autoencoder()
    if one:
        ls.share(model, TIES)  # before the optimizer is made
    ties = TIES.find(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        (model(x[:100]) - x[:100]).square().mean().backward()
        ls.add_penalty_gradient(model, "soft_tie", ties, strength)
        optimizer.step()
    with torch.no_grad():
        error = (model(x) - x).square().mean(dim=1)
    return (
        float(error[100:200].mean()),
        float(error[200:].mean()),
        sum(p.numel() for p in model.parameters()),
    )


if __name__ == "__main__":
    runs = torch.tensor([[errors(seed, strength) for seed in SEEDS] for strength in STRENGTHS])
    one = torch.tensor([errors(seed, one=True) for seed in SEEDS])
    best = runs[..., 0].argmin(dim=0)
    results = {
        "apart": runs[0],
        "softly tied": runs[best, torch.arange(len(SEEDS))],
        "one copy": one,
    }
    for name, result in results.items():
        test = estimate(result[:, 1].tolist())
        less = estimate((runs[0] - result)[:, 1].tolist())
        print(
            f"{name:<12} error {test}  less than apart by {less!s:<18} {result[0, 2]:.0f} numbers"
        )
    print(f"strengths chosen: {[STRENGTHS[i] for i in best.tolist()]}")
