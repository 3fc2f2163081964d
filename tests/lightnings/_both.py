"""Modules and Trainers of a package, given by its name."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def loader(batches=6, size=4):
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(batches * size, 4, generator=rng)
    return DataLoader(TensorDataset(x, x[:, :2].tanh()), size)


@cache
def two(package):
    """A class of modules with two networks."""

    class Two(import_module(package).LightningModule):
        def __init__(self):
            super().__init__()
            self.a, self.b = net(0), net(1)

        def loss(self, batch):
            x, y = batch
            return (self.a(x) - y).square().mean() + (self.b(x) + y).square().mean()

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val/loss", self.loss(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Two


@cache
def child(package):
    """A class of modules with one network, a scheduler, a metric and hooks."""

    class Child(import_module(package).LightningModule):
        def __init__(self, lr=0.1, seed=0):
            super().__init__()
            self.save_hyperparameters()
            self.net, self.ended = net(seed), 0

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = (self.net(x) - y).square().mean()
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val/loss", (self.net(x) - y).square().mean())

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.ended += len(batch[0])

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    # Pickle looks for the class in this module.
    Child.__qualname__ = f"Child_of_{package}".replace(".", "_")
    globals()[Child.__qualname__] = Child
    return Child


def trainer(package, callbacks=(), **options):
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return import_module(package).Trainer(callbacks=callbacks, **(quiet | options))


def assert_same(left, right):
    """Two modules have bitwise equal weights."""
    states = left.state_dict(), right.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
