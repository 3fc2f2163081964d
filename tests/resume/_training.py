"""What is trained here, and the whole state of a training, to be compared bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lit_share import KeepRandomState, Regularize, Share, SharingMonitor

EPOCHS, BATCHES, SAMPLES = 4, 5, 4


def dataset(batches=BATCHES):
    """One input, and a target for each of two models."""
    rng = torch.Generator().manual_seed(7)
    x, y, z = (
        torch.randn(batches * SAMPLES, width, generator=rng, dtype=torch.float64)
        for width in (4, 2, 2)
    )
    return TensorDataset(x, torch.tanh(y + x[:, :2]), z - x[:, 2:])


class Resumable(DataLoader):
    """Shuffles by epoch; knows how many batches are done, as Lightning asks of loaders."""

    def __init__(self):
        data = dataset()
        sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=3)
        # A separate generator leaves the global one alone.
        super().__init__(data, SAMPLES, sampler=sampler, generator=torch.Generator())
        self.done = self.skipped = 0

    def __iter__(self):
        skipped, self.skipped = self.skipped, 0
        for number, batch in enumerate(super().__iter__(), start=1):
            if number > skipped:
                self.done = number
                yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.skipped = state["done"] % len(self)


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=0.05)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.5)


class Lit(LightningModule):
    """Two models with dropout, and two schedules of their learning rate.

    Its checkpoints have what Lightning leaves out of them: gradients that have been accumulated so
    far.
    """

    def __init__(self, optimizer=sgd, seeds=(1, 2)):
        super().__init__()
        self.optimizer, self.gradients = optimizer, {}
        with torch.random.fork_rng():
            for name, seed in zip("ab", seeds, strict=True):
                torch.manual_seed(seed)
                layers = (nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 2))
                setattr(self, name, nn.Sequential(*layers).double())

    def loss(self, batch):
        x, y, z = batch
        return nn.functional.mse_loss(self.a(x), y) + nn.functional.mse_loss(self.b(x), z)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.log("test", self.loss(batch))

    def train_dataloader(self):
        return Resumable()

    def val_dataloader(self):
        return DataLoader(dataset(2), SAMPLES)

    test_dataloader = val_dataloader

    def configure_optimizers(self):
        optimizer = self.optimizer(self)
        each_epoch = {"scheduler": StepLR(optimizer, 1, 0.9), "interval": "epoch"}
        return [optimizer], [
            {"scheduler": ExponentialLR(optimizer, 0.98), "interval": "step"},
            each_epoch,
        ]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["gradients"] = {
            n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None
        }

    def on_load_checkpoint(self, checkpoint):
        self.gradients = checkpoint["gradients"]

    def on_train_start(self):
        gradients, self.gradients = self.gradients, {}
        for name, parameter in self.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name]


class Rows(DummyLogger):
    """Records logged metrics."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows += [(step, key, value) for key, value in sorted(metrics.items())]


def trainer(*callbacks, epochs=EPOCHS, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(
            isinstance(callback, ModelCheckpoint) for callback in callbacks
        ),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return Trainer(
        callbacks=[KeepRandomState(), *callbacks], max_epochs=epochs, **(quiet | options)
    )


def fit(module, *callbacks, ckpt_path=None, seed=5, **options):
    """Train and return the Trainer; the seed sets random numbers unless training resumes."""
    torch.manual_seed(seed)
    made = trainer(*callbacks, **options)
    made.fit(module, ckpt_path=ckpt_path)
    return made


def state_of(made, module):
    """The state that training resumes from, and the aliases of parameters."""
    return {
        "weights": module.state_dict(),
        "parameters": {name: p.detach() for name, p in module.named_parameters()},
        "optimizers": [optimizer.state_dict() for optimizer in made.optimizers],
        "rates": [config.scheduler.state_dict() for config in made.lr_scheduler_configs],
        "callbacks": [
            c.state_dict()
            for c in made.callbacks
            if isinstance(c, (Regularize, Share, SharingMonitor))
        ],
        "random": torch.get_rng_state(),
        "progress": (made.global_step, made.current_epoch),
    }


def assert_bitwise(left, right, where="state"):
    """Nested dicts and lists of tensors and numbers are equal in every bit."""
    assert type(left) is type(right), f"{where}: {left!r} is not {right!r}"
    if isinstance(left, Mapping):
        assert left.keys() == right.keys(), f"{where}: {list(left)} are not {list(right)}"
        for key, value in left.items():
            assert_bitwise(value, right[key], f"{where}[{key!r}]")
    elif isinstance(left, Sequence) and not isinstance(left, str):
        assert len(left) == len(right), f"{where}: {left!r} is not {right!r}"
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_bitwise(*pair, f"{where}[{i}]")
    elif isinstance(left, Tensor):
        assert torch.equal(left, right), f"{where}: {left} is not {right}"
    else:
        assert left == right, f"{where}: {left!r} is not {right!r}"
