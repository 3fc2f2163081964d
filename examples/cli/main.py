"""LightningCLI: YAML says what is tied, and how strongly.

Question: does a classifier of 50 black-and-white digits gain from one of 500 grey ones? The module
and the data are an ordinary project; `config.yaml` adds the callbacks `lit_share.SharingMonitor`
and `lit_share.Regularize` by their class paths. In the root of the repository:

    python examples/cli/main.py fit --config examples/cli/config.yaml

It logs the accuracy of both on validation images, and the distance of their weights. The control is
the same with `--trainer.callbacks.init_args.strength 0`. This needs
`pip install -c constraints.txt -e ".[cli]"`.
"""

import copy

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class GreyAndBinary(LightningModule):
    """One classifier for each kind of image.

    Args:
        hidden: Units of the hidden layer.
        lr: Learning rate.
    """

    def __init__(self, hidden: int = 64, lr: float = 0.003) -> None:
        super().__init__()
        self.lr = lr
        self.grey = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.binary = copy.deepcopy(
            self.grey
        )  # units correspond only if they start from the same weights

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Sum the losses of both."""
        x_grey, y_grey, x_binary, y_binary = batch
        loss = nn.functional.cross_entropy(self.grey(x_grey), y_grey)
        return loss + nn.functional.cross_entropy(self.binary(x_binary), y_binary)

    def validation_step(self, batch: list[Tensor]) -> None:
        """Log the accuracy of both."""
        x_grey, y_grey, x_binary, y_binary = batch
        self.log("val/grey", (self.grey(x_grey).argmax(dim=1) == y_grey).float().mean())
        self.log("val/binary", (self.binary(x_binary).argmax(dim=1) == y_binary).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train both with one optimizer."""
        return torch.optim.Adam(self.parameters(), self.lr)


class Digits(LightningDataModule):
    """500 grey images, and 50 black-and-white ones again and again.

    Args:
        batch_size: Images of each kind in a batch.
    """

    def __init__(self, batch_size: int = 50) -> None:
        super().__init__()
        self.batch_size = batch_size
        x, self.y = map(torch.from_numpy, load_digits(return_X_y=True))
        self.grey = (x / 16).float()
        self.binary = (self.grey > 0.5).float()

    def train_dataloader(self) -> DataLoader:
        """Batches for training."""
        few = torch.arange(500) % 50 + 500
        data = TensorDataset(self.grey[:500], self.y[:500], self.binary[few], self.y[few])
        return DataLoader(data, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """One batch for validation."""
        rest = slice(600, None)
        return DataLoader(
            TensorDataset(self.grey[rest], self.y[rest], self.binary[rest], self.y[rest]), 2000
        )


if __name__ == "__main__":
    cli = LightningCLI(GreyAndBinary, Digits, save_config_callback=None)
    for name, value in cli.trainer.callback_metrics.items():
        if name in ("val/grey", "val/binary", "sharing/distance"):
            print(f"{name:<17} {float(value):.3f}")
