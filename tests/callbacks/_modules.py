"""LightningModules to train, and a way to train them."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def mlp(seed, dtype=torch.float64):
    """Parameters: 0.weight (3×4), 0.bias, 2.weight (2×3), 2.bias."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def sgd(module, lr=0.1, **options):
    return torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=lr, **options)


def loader(batches=10, size=4, dtype=torch.float64):
    """One input and a target for each of two models, in the same order each time."""
    rng = torch.Generator().manual_seed(7)
    x, y, z = (
        torch.randn(batches * size, width, generator=rng, dtype=torch.float64)
        for width in (4, 2, 2)
    )
    return DataLoader(
        TensorDataset(*(t.to(dtype) for t in (x, torch.tanh(y + x[:, :2]), z - x[:, 2:]))), size
    )


def trainer(*callbacks, epochs=2, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), max_epochs=epochs, **(quiet | options))


def fit(module, *callbacks, data=None, ckpt_path=None, **options):
    """Train, and return the Trainer."""
    made = trainer(*callbacks, **options)
    made.fit(module, loader() if data is None else data, ckpt_path=ckpt_path)
    return made


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters(remove_duplicate=False)}


def pairs(module):
    return list(zip(module.a.parameters(), module.b.parameters(), strict=True))


def each(module):
    return [w for pair in pairs(module) for w in pair]


def assert_same(left, right, tolerance=0.0):
    """Two dicts of tensors are equal up to the tolerance; equal bit by bit where that is zero."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            {name: value}, {name: right[name]}, rtol=tolerance, atol=tolerance
        )


class Two(LightningModule):
    """Two models that learn different things from the same inputs.

    Args:
        omega: For reference runs: a function of this module, added to the loss.
        optimizer: What `configure_optimizers` returns, as a function of this module.
        accumulate: For reference runs: the Trainer's `accumulate_grad_batches`.
    """

    def __init__(self, omega=None, optimizer=sgd, dtype=torch.float64, seeds=(0, 1), accumulate=1):
        super().__init__()
        self.a, self.b = (mlp(seed, dtype) for seed in seeds)
        self.omega, self.optimizer, self.accumulate = omega, optimizer, accumulate
        self.origin = [p.detach().clone() for p in each(self)]
        self.steps_taken = 0

    def losses(self, batch):
        x, y, z = batch
        return nn.functional.mse_loss(self.a(x), y), nn.functional.mse_loss(self.b(x), z)

    def penalty(self, batch_idx):
        """The penalty once per step, though Lightning divides each loss by `accumulate`."""
        last = (
            batch_idx + 1
        ) % self.accumulate == 0 or batch_idx + 1 == self.trainer.num_training_batches
        return 0.0 if self.omega is None or not last else self.accumulate * self.omega(self)

    def training_step(self, batch, batch_idx):
        self.steps_taken += 1
        return sum(self.losses(batch)) + self.penalty(batch_idx)

    def configure_optimizers(self):
        return self.optimizer(self)


class Frozen(Two):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.b.requires_grad_(False)


class OneLearns(Two):
    """The loss reads the first model only; the second gets a gradient only from the penalty."""

    def losses(self, batch):
        return super().losses(batch)[:1]


class Skips(Two):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


SGD_WITH_MOMENTUM = partial(torch.optim.SGD, momentum=0.9)


def two_optimizers(module, make=SGD_WITH_MOMENTUM, lrs=(0.1, 0.1)):
    return [
        make(net.parameters(), lr=lr) for net, lr in zip((module.a, module.b), lrs, strict=True)
    ]


class Manual(Two):
    """Two optimizers, one backward pass."""

    def __init__(self, *args, optimizer=two_optimizers, **kwargs):
        super().__init__(*args, optimizer=optimizer, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.steps_taken += 1
        one, two = self.optimizers()
        one.zero_grad()
        two.zero_grad()
        self.manual_backward(sum(self.losses(batch)) + self.penalty(batch_idx))
        one.step()
        two.step()


class ManualEach(Manual):
    """A backward pass for each optimizer."""

    toggle = False

    def training_step(self, batch, batch_idx):
        for i, optimizer in enumerate(self.optimizers()):
            if self.toggle:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.losses(batch)[i] + self.penalty(batch_idx))
            optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(optimizer)


class ManualToggled(ManualEach):
    """Adversarial training: the other model's parameters do not require gradients meanwhile."""

    toggle = True


class ManualUneven(Manual):
    """The second optimizer steps in every other batch."""

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers()
        one.zero_grad()
        two.zero_grad()
        self.manual_backward(sum(self.losses(batch)) + self.penalty(batch_idx))
        one.step()
        if batch_idx % 2 == 1:
            two.step()


class Still(LightningModule):
    """A module whose loss has a gradient of zero, so that nothing but the penalty moves it."""

    def __init__(self, optimizer=sgd, dtype=torch.float64, infinite=()):
        super().__init__()
        self.a, self.b = mlp(0, dtype), mlp(1, dtype)
        self.optimizer, self.infinite = optimizer, infinite

    def training_step(self, batch, batch_idx):
        factor = float("inf") if batch_idx in self.infinite else 0.0
        return factor * sum(p.sum() for p in self.parameters())

    def configure_optimizers(self):
        return self.optimizer(self)
