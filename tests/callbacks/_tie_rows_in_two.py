"""Rows that are tied in two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import sys

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lit_share.callbacks import TieRows
from lit_share.codebooks import CodebookLinear, tie_rows
from lit_share.ties import TieError, Ties

from .._two_processes import run_here
from ._modules import assert_same, fit

FIRST = Ties("net.0.weight")


def data(size=4):
    """Three pairs of inputs that are nearly equal, and targets."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=rng)
    noise = 0.05 * torch.randn(24, 6, generator=rng)
    return TensorDataset(x.repeat(1, 2) + noise, x[:, :2]), size


def loader(**options):
    dataset, size = data()
    return DataLoader(dataset, size, **options)


class Lit(LightningModule):
    """A net that normalises its hidden units, and counts the steps that are seen."""

    def __init__(self, optimizer=torch.optim.SGD):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        self.optimizer, self.steps = optimizer, 0

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.05)


class Sharded(Lit):
    def configure_model(self):
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def ddp():
    module, other = Lit(), Lit()
    fit(module, TieRows(FIRST, "data", 0.9), data=loader(), devices=2, strategy=DDPStrategy())
    tie_rows(other.net, Ties("0.weight"), 0.9, by="data", inputs=[data()[0].tensors[0]])
    fit(other, data=loader(), devices=2, strategy=DDPStrategy())
    assert isinstance(module.net[0], CodebookLinear)
    assert_same(module.state_dict(), other.state_dict())


def ddp_of_few():
    """Each process reads other samples, and alone would find other clusters."""
    module = Lit()
    callback = TieRows(FIRST, "data", clusters=3, batches=1)
    fit(module, callback, data=loader(), devices=2, strategy=DDPStrategy())
    other = Lit()
    x = data()[0].tensors[0][:8]
    tie_rows(other.net, Ties("0.weight"), by="data", inputs=[x], clusters=3)
    assert torch.equal(module.net[0].assignment, other.net[0].assignment)


def later():
    with pytest.raises(TieError, match=r"works in one process, but the Trainer has 2"):
        fit(Lit(), TieRows(FIRST, "data", epoch=1), data=loader(), devices=2)


def fsdp2():
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    )
    with pytest.raises(TieError, match=r"call lit_share\.tie_rows before fully_shard"):
        fit(Sharded(), TieRows(FIRST, "data"), data=loader(), devices=2, strategy=strategy)


TABLE = {"DDP": ddp, "DDP of few samples": ddp_of_few, "a later epoch": later, "FSDP2": fsdp2}

if __name__ == "__main__":
    run_here(TABLE, sys.argv[1])
