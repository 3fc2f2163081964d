"""An autoencoder, a GAN, and the module of a much used template."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ._foreign import Foreign, mlp, seeded, table


def define(L: Any) -> dict[str, Foreign]:
    """Return the modules, of the LightningModule of a package."""

    class Autoencoder(L.LightningModule):
        def __init__(self, hidden: int = 6, lr: float = 1e-2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder, self.decoder = mlp(hidden), mlp(hidden, n_in=3, n_out=4)

        def forward(self, x):
            return self.decoder(self.encoder(x))

        def training_step(self, batch, batch_idx):
            return self._common_step(batch, "train")

        def validation_step(self, batch, batch_idx):
            self._common_step(batch, "val")

        def _common_step(self, batch, stage):
            loss = nn.functional.mse_loss(self(batch[0]), batch[0])
            self.log(f"{stage}_loss", loss, on_step=True, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    class ManualGAN(L.LightningModule):
        """Two optimizers in turn."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.encoder, self.discriminator = mlp(n_out=4), mlp(n_out=1)

        def training_step(self, batch, batch_idx):
            generator, discriminator = self.optimizers()
            noise = torch.ones_like(batch[0])
            for optimizer, sign in ((generator, -1.0), (discriminator, 1.0)):
                self.toggle_optimizer(optimizer)
                fake, real = self.encoder(noise), batch[0]
                loss = sign * (self.discriminator(fake) - self.discriminator(real)).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.untoggle_optimizer(optimizer)
            self.log("loss", loss)

        def configure_optimizers(self):
            parts = (self.encoder, self.discriminator)
            return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in parts], []

    class OptimizerOfTrainersModel(L.LightningModule):
        """Takes partial optimizers as hyperparameters, and resets its metrics."""

        def __init__(self, encoder, optimizer, scheduler, compiled: bool = False) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False, ignore=["encoder"])
            self.encoder = encoder
            self.train_acc, self.val_acc = (MulticlassAccuracy(3) for _ in range(2))
            self.val_loss, self.val_acc_best = MeanMetric(), MaxMetric()

        def on_train_start(self):
            for metric in (self.val_loss, self.val_acc, self.val_acc_best):
                metric.reset()

        def training_step(self, batch, batch_idx):
            outputs = self.encoder(batch[0])
            self.train_acc(outputs, batch[1])
            self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
            return nn.functional.cross_entropy(outputs, batch[1])

        def validation_step(self, batch, batch_idx):
            outputs = self.encoder(batch[0])
            self.val_loss(nn.functional.cross_entropy(outputs, batch[1]))
            self.val_acc(outputs, batch[1])
            self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)
            self.log("val/acc", self.val_acc, on_step=False, on_epoch=True)

        def on_validation_epoch_end(self):
            self.val_acc_best(self.val_acc.compute())
            self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True)

        def setup(self, stage):
            if self.hparams.compiled and stage == "fit":
                self.encoder = torch.compile(self.encoder)

        def configure_optimizers(self):
            optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
            scheduler = self.hparams.scheduler(optimizer=optimizer)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"},
            }

    def template(seed):
        # Both children have learning rates of their own.
        optimizer = partial(torch.optim.Adam, lr=0.01 * seed)
        plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
        return OptimizerOfTrainersModel(seeded(seed, mlp), optimizer, plateau)

    val = partial(table, samples=7)
    return {
        "autoencoder": Foreign(lambda seed: seeded(seed, Autoencoder), table, val),
        "manual_gan": Foreign(lambda seed: seeded(seed, ManualGAN), table),
        "optimizer_of_trainers_model": Foreign(template, table, val, load={"encoder": mlp()}),
    }
