"""Models of tables and time series: hyperparameters from data sets, several data sets, own data."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ._foreign import Foreign, mlp, seeded, table


class Series(TensorDataset):
    """Windows of a series, which know how long they are."""

    def __init__(self, seed: int, n: int = 16, length: int = 5, horizon: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        walk = torch.randn(n, length + horizon, 1, generator=generator).cumsum(1)
        self.parameters = {"length": length, "horizon": horizon}
        super().__init__(walk[:, :length], walk[:, length:, 0])


def series(seed: int, n: int = 16) -> DataLoader:
    return DataLoader(Series(seed, n), batch_size=4)


def define(L: Any) -> dict[str, Foreign]:
    """Return the modules, of the LightningModule of a package."""

    class OverriddenLog(L.LightningModule):
        """A transformer that logs in its own way, and takes hyperparameters from a data set."""

        def __init__(self, horizon: int, lr: float, dataset_parameters: dict | None = None) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["dataset_parameters"])
            self.dataset_parameters = dataset_parameters
            self.embed = nn.Linear(1, 4)
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
            self.head = nn.Linear(4, horizon)
            self.step_losses = []

        @classmethod
        def from_dataset(cls, dataset, **options):
            parameters = dataset.parameters
            return cls(horizon=parameters["horizon"], dataset_parameters=parameters, **options)

        @property
        def current_stage(self):
            return {"training": "train", "validating": "val"}.get(self.trainer.state.stage, "val")

        def log(self, name, *args, **kwargs):
            super().log(f"{self.current_stage}_{name}", *args, **kwargs)

        def step(self, batch):
            outputs = self.head(self.encoder(self.embed(batch[0]))[:, -1])
            loss = nn.functional.l1_loss(outputs, batch[1])
            self.log("loss", loss, on_step=self.training, on_epoch=True, prog_bar=True)
            return {"loss": loss, "n": len(batch[0])}

        def training_step(self, batch, batch_idx):
            output = self.step(batch)
            self.step_losses.append(output["loss"].detach())
            return output

        def validation_step(self, batch, batch_idx):
            return self.step(batch)

        def on_train_epoch_end(self):
            self.log("epoch_median", torch.stack(self.step_losses).median())
            self.step_losses.clear()

        def on_save_checkpoint(self, checkpoint):
            checkpoint["dataset_parameters"] = self.dataset_parameters

        def on_load_checkpoint(self, checkpoint):
            self.dataset_parameters = checkpoint["dataset_parameters"]

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss", "frequency": 1},
            }

    class SeveralDatasets(L.LightningModule):
        """Trains on two tables at a time, and validates on one after the other."""

        def __init__(self, config: DictConfig) -> None:
            super().__init__()
            self.save_hyperparameters(config)
            self.encoder = mlp(config.width)

        def loss(self, batch):
            return nn.functional.cross_entropy(self.encoder(batch[0]), batch[1])

        def training_step(self, batch, batch_idx):
            losses = {f"train_{name}": self.loss(own) for name, own in batch.items()}
            self.log_dict(losses, on_step=False, on_epoch=True)
            return sum(losses.values())

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("valid_loss", self.loss(batch))

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
            decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.hparams.decay)
            return [optimizer], [decay]

    class OwnData(L.LightningDataModule):
        def __init__(self, seed: int = 0, samples: int = 12) -> None:
            super().__init__()
            self.save_hyperparameters()

        def setup(self, stage):
            self.set = Series(self.hparams.seed, self.hparams.samples)
            self.scale = self.set.tensors[0].std()

        def train_dataloader(self):
            return DataLoader(self.set, batch_size=4)

        def val_dataloader(self):
            return DataLoader(self.set, batch_size=5)

    class ReadsItsDatamodule(L.LightningModule):
        """A forecaster that scales by what its datamodule knows."""

        def __init__(self, width: int = 6, loss: str = "l1_loss") -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = mlp(width, n_in=5, n_out=2)

        def on_fit_start(self):
            self.scale = self.trainer.datamodule.scale

        def training_step(self, batch, batch_idx):
            outputs = self.scale * self.encoder(batch[0][:, :, 0] / self.scale)
            loss = getattr(nn.functional, self.hparams.loss)(outputs, batch[1])
            self.log("train_loss", loss, batch_size=len(outputs))
            return loss

        def validation_step(self, batch, batch_idx):
            outputs = self.scale * self.encoder(batch[0][:, :, 0] / self.scale)
            self.log("ptl/val_loss", nn.functional.l1_loss(outputs, batch[1]))

        def configure_optimizers(self):
            steps = self.trainer.estimated_stepping_batches
            assert steps <= self.trainer.num_training_batches * self.trainer.max_epochs
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, int(steps // 3)), 0.5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    def transformer(seed):
        return seeded(seed, lambda: OverriddenLog.from_dataset(Series(seed), lr=0.01 * seed))

    def several(seed):
        config = OmegaConf.create({"width": 6, "lr": 0.01, "decay": 0.9})
        return seeded(seed, lambda: SeveralDatasets(config))

    return {
        "overridden_log": Foreign(transformer, series, partial(series, n=7)),
        "several_datasets": Foreign(
            several,
            lambda seed: {"adult": table(seed), "wine": table(seed + 5)},
            lambda seed: [table(seed, 7), table(seed + 5, 6)],
        ),
        "reads_its_datamodule": Foreign(
            lambda seed: seeded(seed, ReadsItsDatamodule), datamodule=OwnData
        ),
    }
