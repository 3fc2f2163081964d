import csv
import warnings
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError


class Lit(LightningModule):
    """A user's module: regression, with all kinds of metrics, an optimizer and a scheduler."""

    def __init__(self, width=3, lr=0.05, optimizer="adam", scheduler="step", seed=0):
        super().__init__()
        self.save_hyperparameters()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 1)
            )
        self.mae = MeanAbsoluteError()
        self.val_mae = MeanAbsoluteError()

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        self.mae(outputs, targets)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/mae", self.mae, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self(inputs)
        self.val_mae(outputs, targets)
        self.log_dict(
            {"val/loss": nn.functional.mse_loss(outputs, targets), "val/mae": self.val_mae}
        )

    def test_step(self, batch, batch_idx):
        self.log("test/loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        lr = self.hparams.lr
        if self.hparams.optimizer == "adam":
            optimizer = torch.optim.Adam(self.parameters(), lr=lr, weight_decay=0.1)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)
        if self.hparams.scheduler == "step":
            return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]
        if self.hparams.scheduler == "plateau":
            plateau = ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
            return {"optimizer": optimizer, "lr_scheduler": plateau, "monitor": "val/loss"}
        return optimizer


class Kit:
    """What the tests of this folder share."""

    Lit = Lit

    @staticmethod
    def loader(seed, samples=24, batch_size=4):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(samples, 4, generator=generator)
        return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True).sin()), batch_size)

    @staticmethod
    def trainer(**options):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return Trainer(
            **{
                "max_epochs": 2,
                "accelerator": "cpu",
                "log_every_n_steps": 1,
                "enable_model_summary": False,
            }
            | quiet
            | options
        )

    @classmethod
    def fit(cls, module, train, val=None, ckpt_path=None, **options):
        trainer = cls.trainer(**options)
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
        return trainer

    @staticmethod
    def logged(logger):
        """The step, name and value, as text, of all that a CSVLogger wrote."""
        with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
            rows = [*csv.DictReader(file)]
        return {(row["step"], key, row[key]) for row in rows for key in row if row[key]}

    @staticmethod
    def assert_same(left, right):
        """Two nested structures of dicts, lists and tensors are bitwise equal."""
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right)
        elif isinstance(left, dict):
            assert left.keys() == right.keys()
            for key in left:
                Kit.assert_same(left[key], right[key])
        elif isinstance(left, (list, tuple)):
            assert len(left) == len(right)
            for one, other in zip(left, right, strict=True):
                Kit.assert_same(one, other)
        else:
            assert left == right


@pytest.fixture
def kit():
    return Kit


@pytest.fixture(autouse=True)
def _quieter(quiet):
    # Most tests need no validation.
    warnings.filterwarnings("ignore", message=".*Skipping val loop.*")
