"""Two LightningModules that know nothing of each other: `ls.Paired` trains them side by side.

Question: a project has a module for upright digits and one for digits turned by 20°, each with its
own data, optimizer and metrics. Can the second, which has 50 images, borrow from the first without
a change to either?

It prints the test accuracy of both when they are trained separately, softly tied (with a strength
set beforehand, not tuned), and as one copy. Without ties `Paired` trains each bitwise as it would
be trained alone.
"""

import copy
import logging
import warnings

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


class Digits(LightningModule):
    """Classifies digits that are turned by an angle; knows nothing of ties."""

    def __init__(self, degrees: float, n: int, seed: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        images, labels = load_digits(return_X_y=True)
        turned = rotate(images.reshape(-1, 8, 8) / 16, degrees, axes=(1, 2), reshape=False, order=1)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        start = 0 if degrees == 0 else 500  # no image is seen by both
        self.data = TensorDataset(
            torch.from_numpy(turned).float().flatten(1)[order], torch.from_numpy(labels)[order]
        )
        self.parts = {"train": range(start, start + n), "test": range(800, len(labels))}

    def train_dataloader(self) -> DataLoader:
        """Batches of the training images."""
        return DataLoader(
            TensorDataset(*self.data[self.parts["train"]]), batch_size=50, shuffle=True
        )

    def test_dataloader(self) -> DataLoader:
        """All test images."""
        return DataLoader(TensorDataset(*self.data[self.parts["test"]]), batch_size=1000)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        """Accuracy."""
        self.log("accuracy", (self.net(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def accuracies(seed: int, *callbacks: object) -> list[float]:
    """Test accuracy of both."""
    torch.manual_seed(seed)
    upright, turned = Digits(0, 500, seed), Digits(20, 50, seed)
    turned.net = copy.deepcopy(
        upright.net
    )  # units correspond only if they start from the same weights
    pair = ls.Paired(upright=upright, turned=turned)
    trainer = Trainer(
        max_epochs=15, callbacks=list(callbacks), accelerator="cpu", devices=1, **QUIET
    )
    trainer.fit(pair)
    trainer.test(pair, verbose=False)
    return [float(trainer.callback_metrics[f"{name}/accuracy"]) for name in pair.child_names]


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    ties = ls.Ties("upright.net.*", "turned.net.*")
    strategies = {
        "apart": (),
        "softly tied": (ls.Regularize("soft_tie", ties, strength=0.1),),
        "one copy": (ls.Share(ties),),
    }
    runs = {
        name: torch.tensor([accuracies(seed, *given) for seed in range(6)])
        for name, given in strategies.items()
    }
    for name, run in runs.items():
        upright, turned = (estimate(column.tolist()) for column in run.T)
        gains = [estimate(column.tolist()) for column in (run - runs["apart"]).T]
        print(
            f"{name:<12} upright {upright!s:<15} turned {turned}  gains {gains[0]} and {gains[1]}"
        )
