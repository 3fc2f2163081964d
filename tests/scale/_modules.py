"""A pair of models that is trained in two processes, and what it sends."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard as ShardPlacement
from torch.utils.data import DataLoader, TensorDataset

from ._traffic import Phases, Traffic

EPOCHS, STEPS, BATCH = 2, 2, 4
# Of inputs, hidden units and outputs. Two ranks have shards of one length, or of different lengths
# and empty ones.
EVEN, UNEVEN = (6, 4, 2), (5, 3, 1)


def shapes_of(widths, matrices_only=False):
    """The shapes of the parameters of one model."""
    inputs, hidden, outputs = widths
    shapes = [(hidden, inputs), (hidden,), (outputs, hidden), (outputs,)]
    return [shape for shape in shapes if len(shape) == 2 or not matrices_only]


def precision_of(penalty, module):
    """The precision that a penalty needs: a file, as what a user holds is not kept by us."""
    if not penalty.needs_precision:
        return {}
    with NamedTemporaryFile(suffix=".pt", delete=False) as file:
        torch.save({name: torch.ones_like(p) for name, p in module.named_parameters()}, file)
    atexit.register(Path(file.name).unlink)
    return {"precision": file.name}


class Pair(LightningModule):
    """Two models, trained on the same inputs.

    Args:
        widths: Of inputs, hidden units and outputs.
    """

    def __init__(self, widths=EVEN):
        super().__init__()
        self.widths = widths
        inputs, hidden, outputs = widths
        for name in "ab":
            layers = nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, x):
        return sum(model(x).square().mean() for model in (self.a, self.b))

    def training_step(self, batch, _):
        (x,) = batch
        return self(x.to(next(self.parameters()).dtype))

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(2 * STEPS * BATCH, self.widths[0])), BATCH)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sharded(Pair):
    """Sharded along dimension 0, as one group."""

    def options(self):
        return {"mesh": self.device_mesh["data_parallel"]}

    def configure_model(self):
        fully_shard(self, **self.options())


class Resharded(Sharded):
    """Gathered again for the backward pass."""

    def options(self):
        return super().options() | {"reshard_after_forward": True}


class Columns(Sharded):
    """Matrices are sharded along dimension 1."""

    def options(self):
        return super().options() | {"shard_placement_fn": lambda p: ShardPlacement(p.ndim - 1)}


class Turned(Sharded):
    """An autoencoder, whose decoder is the transpose of its encoder."""

    def __init__(self, widths=EVEN):
        super().__init__(widths)
        inputs, hidden, _ = widths
        self.a, self.b = nn.Linear(inputs, hidden, False), nn.Linear(hidden, inputs, False)

    def forward(self, x):
        return (self.b(self.a(x)) - x).square().mean()


def trained(kind, *callbacks, widths=EVEN, **options):
    """Train, and return the traffic and the Trainer."""
    traffic = Traffic()
    strategy = DDPStrategy()
    if issubclass(kind, Sharded):
        strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    quiet = {
        "accelerator": "cpu",
        "devices": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": EPOCHS,
    }
    trainer = Trainer(
        callbacks=[Phases(traffic), *callbacks], strategy=strategy, **(quiet | options)
    )
    with traffic:
        trainer.fit(kind(widths))
        traffic.phase = "checkpoint"
        trainer.save_checkpoint("pair.ckpt")
    return traffic, trainer


@cache
def without(kind, widths=EVEN, **options):
    """The traffic of training without a strategy."""
    return trained(kind, widths=widths, **options)[0]
