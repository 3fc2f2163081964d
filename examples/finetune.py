"""Fine-tuning from a checkpoint with L2-SP: stay near the starting values.

Question: a classifier of 500 upright digits is fine-tuned with 20 digits that are turned by 40°.
Does it generalise better, or forget less, when its weights are pulled to their starting values
instead of to zero?

It prints the accuracy on turned (new) and on upright (old) test images over 5 seeds, and the gain
from pulling. Old images are assumed to be lost: the strength is the largest whose accuracy on
turned validation images is within a point of the best.
"""

import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import LightningModule, Trainer
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.lab.report import estimate

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
STRENGTHS, SEEDS = (0.03, 0.3, 3.0), range(5)
IMAGES, LABELS = load_digits(return_X_y=True)


class Digits(LightningModule):
    """Classifies digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def fit(model: Digits, x: Tensor, y: Tensor, steps: int, *callbacks: ls.Regularize) -> Trainer:
    """Train for a number of steps of up to 100 images."""
    trainer = Trainer(
        max_steps=steps, callbacks=list(callbacks), accelerator="cpu", devices=1, **QUIET
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True))
    return trainer


def accuracies(seed: int, folder: Path) -> dict[str, list[list[float]]]:
    """For each recipe and strength, accuracy on validation, new and old test images."""
    torch.manual_seed(seed)
    order, images = torch.randperm(len(LABELS)), IMAGES.reshape(-1, 8, 8) / 16
    y = torch.from_numpy(LABELS)[order]
    old = torch.from_numpy(images).float().flatten(1)[order]
    new = (
        torch.from_numpy(rotate(images, 40, axes=(1, 2), reshape=False, order=1))
        .float()
        .flatten(1)[order]
    )
    fit(Digits(), old[:500], y[:500], 100).save_checkpoint(folder / "upright.ckpt")

    def tuned(recipe: str, strength: float) -> list[float]:
        model = Digits.load_from_checkpoint(folder / "upright.ckpt")
        fit(model, new[500:520], y[500:520], 60, ls.Regularize(recipe, ls.Ties("net.*"), strength))
        with torch.no_grad():
            right_new, right_old = ((model.net(x).argmax(dim=1) == y).float() for x in (new, old))
        return [
            float(right.mean()) for right in (right_new[600:800], right_new[800:], right_old[800:])
        ]

    return {"nothing": [tuned("l2", 0.0)]} | {
        name: [tuned(recipe, strength) for strength in STRENGTHS]
        for name, recipe in {"l2 (zero)": "l2", "l2_sp (start)": "l2_sp"}.items()
    }


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    with TemporaryDirectory() as folder:
        runs = [accuracies(seed, Path(folder)) for seed in SEEDS]
    results = {}
    for name in runs[0]:
        good = [[r for r in run[name] if r[0] >= max(run[name])[0] - 0.01] for run in runs]
        results[name] = torch.tensor([of_each_strength[-1][1:] for of_each_strength in good])
    for name, result in results.items():
        new, old = (estimate(column.tolist()) for column in result.T)
        gains = [estimate(column.tolist()) for column in (result - results["nothing"]).T]
        print(
            f"pulled to {name:<14} new {new!s:<14} old {old!s:<13} gains {gains[0]} and {gains[1]}"
        )
