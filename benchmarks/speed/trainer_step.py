"""What the callback adds to a step in a Trainer: `python -m benchmarks.speed trainer_step`.

A pair of MLPs 784-300-100-10 with Adam and batches of 64, and the penalty logged every 50 steps.
Trainers with and without the callback alternate; each is timed from step to step, and a step is the
median of a training. With accumulation a step is eight batches. A callback that only moves the
bytes of a penalty is its floor. Bookkeeping is what the callback does beyond the algebra: its hooks
around a step of an optimizer that does nothing, less such a step and the same call of the algebra
on ties that stay open, in milliseconds. On large models, what penalties take of a step.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from benchmarks.speed._clock import DEVICE, Row, alternate, floor, now, on_gpu, spread
from lit_share.functional import TieBatch, TieTensors

REPEATS, BATCHES = 7, 160
PENALTIES = {
    "soft_tie": ls.Penalty(norm="squared", groups="element", center="mean"),
    "exact_tie": ls.Penalty(norm="l1", groups="element", center="mean"),
}
TIES = ls.Ties("a.*", "b.*")
# Bytes that penalties have to move: 24 and 16 for each pair of numbers.
PAIR_SIZE = 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10
FLOORS = {
    "the floor of soft_tie": 24 * PAIR_SIZE,
    "the floor of exact_tie": 16 * PAIR_SIZE,
}


class Pair(LightningModule):
    """Two classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Sequential(
                nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
            )
            for _ in range(2)
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The sum of both losses."""
        x, y = batch
        return nn.functional.cross_entropy(self.a(x), y) + nn.functional.cross_entropy(self.b(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Idle(torch.optim.SGD):
    """An optimizer that does nothing in its step but call hooks."""

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


class Logged(Callback):
    """Logs the penalty's value every 50 steps."""

    def __init__(self, penalty: ls.Regularize) -> None:
        self.penalty = penalty

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log."""
        if trainer.global_step % 50 == 0:
            pl_module.log(
                "penalty", self.penalty.value(pl_module, trainer.global_step, trainer.current_epoch)
            )


class Clock(Callback):
    """The time between the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the time of a step."""
        if not self.ends or trainer.global_step != self.step:
            self.ends.append(now())
        self.step = trainer.global_step

    @property
    def median(self) -> float:
        """Of a step, in seconds; the first ten warm up."""
        return statistics.median(
            b - a for a, b in zip(self.ends[10:], self.ends[11:], strict=False)
        )


class Floor(Callback):
    """Moves as many bytes as a penalty has to, before a step of the optimizer."""

    def __init__(self, size: int) -> None:
        self.move = floor(size)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Move them."""
        self.move()


def callbacks_of(name: str) -> list[Callback]:
    """The penalty of this name and its logging, or two callbacks that do less."""
    if name in FLOORS:
        return [Floor(FLOORS[name]), Callback()]
    if name not in PENALTIES:
        return [Callback(), Callback()]
    regularize = ls.Regularize(PENALTIES[name], TIES, strength=1e-3)
    return [regularize, Logged(regularize)]


def step(own: Sequence[Callback], accumulate: int) -> float:
    """Seconds of a step with these callbacks."""
    torch.manual_seed(0)
    samples = BATCHES * accumulate // 2 * 64 if accumulate > 1 else BATCHES * 64
    data = TensorDataset(torch.randn(samples, 784), torch.randint(10, (samples,)))
    clock = Clock()
    trainer = Trainer(
        max_epochs=1,
        accelerator="gpu" if on_gpu() else "cpu",
        accumulate_grad_batches=accumulate,
        callbacks=[*own, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Pair(), DataLoader(data, batch_size=64))
    return clock.median


def bookkeeping(penalty: ls.Penalty) -> float:
    """Return the milliseconds of the hooks of a step, less those of the algebra in them."""
    module = Pair().to(DEVICE)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer, without_hooks = (Idle(module.parameters(), lr=1e-3) for _ in range(2))
    ties = [
        TieTensors(tie.tensors(), [w.grad for w in tie.parameters], [1e-12] * len(tie.members))
        for tie in TIES.find(module)
    ]
    batch = TieBatch(penalty, ties)
    callback = ls.Regularize(penalty, TIES, strength=1e-9)
    trainer: Any = Trainer(
        logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu"
    )
    trainer.strategy.optimizers = [optimizer]
    trainer.strategy.connect(module)
    trainer.callbacks.append(callback)
    callback.on_fit_start(trainer, module)
    callback.on_train_start(trainer, module)

    def hooks() -> None:
        callback.on_before_optimizer_step(trainer, module, optimizer)
        optimizer.step()

    def algebra() -> None:
        if penalty.is_smooth:
            batch.add_gradient_(1e-9)
        without_hooks.step()
        if not penalty.is_smooth:
            batch.prox_()

    times = []
    for _ in range(200):
        for call in (hooks, algebra):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    callback.teardown(trainer, module, "fit")
    return 1e3 * (statistics.median(times[::2]) - statistics.median(times[1::2]))


def reading() -> float:
    """Return the milliseconds of reading what kernels need of each parameter and gradient.

    Bookkeeping does at least this, between a forward pass and a step that fill the caches.
    """
    parameters = list(Pair().parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    evicting = torch.zeros(4_000_000)
    times = []
    for _ in range(200):
        evicting.add_(1.0)
        begin = time.perf_counter()
        for p in parameters:
            grad: Any = p.grad
            _ = p.requires_grad, p.data_ptr(), p.shape, grad.data_ptr(), grad.shape
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def of_large_models() -> Iterator[Row]:
    """The penalties' cost in a step of two encoders of 25 million parameters, batch 8 × 64."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    nets = [nn.TransformerEncoder(layer, 8, enable_nested_tensor=False) for _ in "ab"]
    pair = nn.ModuleDict(dict(zip("ab", nets, strict=True))).to(DEVICE)
    optimizer, ties = torch.optim.Adam(pair.parameters(), lr=1e-6), TIES.find(pair)
    x = torch.randn(8, 64, 512, device=DEVICE)

    def bare() -> None:
        optimizer.zero_grad()
        torch.stack([net(x).square().mean() for net in nets]).sum().backward()
        optimizer.step()

    calls: dict[str, Callable[[], object]] = {"step": bare}
    calls["soft_tie"] = partial(ls.add_penalty_gradient, pair, PENALTIES["soft_tie"], ties, 0.0)
    calls["exact_tie"] = partial(ls.apply_prox, pair, PENALTIES["exact_tie"], ties, 1e-12)
    times = alternate(calls, 3)
    for name in PENALTIES:
        percent = [100.0 * a / b for a, b in zip(times[name], times["step"], strict=True)]
        yield spread(
            f"{name}, two encoders of 25 M", percent, unit="%", against="a bare step", target=2.0
        )


def measure() -> Iterator[Row]:
    """The rows."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for accumulate, most in (
        (1, {"soft_tie": 4.0, "exact_tie": 4.0}),
        (8, {"soft_tie": 1.5, "exact_tie": 1.5}),
    ):
        contestants = ("two callbacks that do nothing", *PENALTIES, *FLOORS)
        added: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(REPEATS):
            bare = step([], accumulate)
            for name, percent in added.items():
                percent.append(100.0 * (step(callbacks_of(name), accumulate) / bare - 1.0))
        for name, percent in added.items():
            what = f"{name}, in a Trainer" + (
                f", accumulation {accumulate}" if accumulate > 1 else ""
            )
            yield spread(
                what, percent, unit="%", against="added to a bare step", target=most.get(name)
            )
    for name, penalty in PENALTIES.items():
        values = [bookkeeping(penalty) for _ in range(5)]
        yield spread(
            f"{name}, bookkeeping", values, unit="ms", against="beyond the algebra", target=0.03
        )
    values = [reading() for _ in range(5)]
    yield spread("reading each address once", values, unit="ms", against="caches that are cold")
    yield from of_large_models()
