"""Your own LightningModule with two submodules: one line ties them.

Question: two classifiers of digits, A with 500 grey images and B with 50 black-and-white ones. Is B
better when its weights are pulled towards A's, and how strongly?

The LightningModule knows nothing of lit_share. It prints B's accuracy on test images for each
strength, and for the strength that validation images chose.
"""

import copy
import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share.lab.report import estimate

STRENGTHS, SEEDS = (0.0, 0.01, 0.1, 1.0), range(4)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class GreyAndBinary(LightningModule):
    """One classifier for each kind of image, trained at once."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.binary = copy.deepcopy(
            self.grey
        )  # units correspond only if they start from the same weights

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Sum the losses of both."""
        x_grey, y_grey, x_binary, y_binary = batch
        loss = nn.functional.cross_entropy(self.grey(x_grey), y_grey)
        return loss + nn.functional.cross_entropy(self.binary(x_binary), y_binary)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train both with one optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.003)


def accuracy(strength: float, seed: int) -> list[float]:
    """Accuracy of the scarce model on validation and on test images."""
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(y))
    grey, y = (x[order] / 16).float(), y[order]
    binary, few = (
        (grey > 0.5).float(),
        torch.arange(500) % 50 + 500,
    )  # the same 50 images again and again
    data = TensorDataset(grey[:500], y[:500], binary[few], y[few])
    model = GreyAndBinary()

    callbacks = [ls.Regularize("soft_tie", ls.Ties("grey.*", "binary.*"), strength)]  # the line

    trainer = Trainer(max_epochs=15, callbacks=callbacks, accelerator="cpu", devices=1, **QUIET)
    trainer.fit(model, DataLoader(data, batch_size=50, shuffle=True))
    with torch.no_grad():
        right = (model.binary(binary).argmax(dim=1) == y).float()
    return [float(right[600:800].mean()), float(right[800:].mean())]


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    runs = torch.tensor([[accuracy(strength, seed) for seed in SEEDS] for strength in STRENGTHS])
    validation, test = runs.unbind(dim=-1)
    for strength, row in zip(STRENGTHS, test, strict=True):
        print(f"strength {strength:<5g} test accuracy {estimate(row.tolist())}")
    chosen = test.gather(0, validation.argmax(dim=0, keepdim=True))[0]
    gain = estimate((chosen - test[0]).tolist())
    print(f"chosen on validation {estimate(chosen.tolist())}, which is a gain of {gain}")
