"""Whether long training stays as it began: `python -m benchmarks.long_run [STEPS]`.

All callbacks at once, in a real Trainer, with checkpoints and a CSV logger: a gradient penalty on a
schedule, a proximal one, `l2_sp`, hard sharing, and the monitor. The table has ten parts of the
training: the process's resident memory at the end of each, Python's own (tracemalloc, in a second
training, as it slows the steps), and the median step. Flat means that the last part is like the
second: the first one warms up.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
import tracemalloc
import warnings
from array import array
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls

PARTS = 10


class Models(LightningModule):
    """Three models of one question, for the three ways to be like each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Sequential(
                nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
            )
            for _ in range(3)
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The sum of their losses."""
        x, y = batch
        loss = torch.stack(
            [nn.functional.cross_entropy(net(x), y) for net in (self.a, self.b, self.c)]
        ).sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        """The first one's loss."""
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self.a(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Clock(Callback):
    """Seconds of each step, and memory in use at the end of each part."""

    def __init__(self, part: int) -> None:
        self.part, self.steps = part, 0
        self.seconds = array("d", bytes(8 * PARTS * part))  # at once, so that it does not grow
        self.resident: list[float] = []
        self.traced: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """Start."""
        self.begin = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        """Stop, and look at the memory at the end of a part."""
        self.seconds[self.steps] = time.perf_counter() - self.begin
        self.steps += 1
        if self.steps % self.part == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident.append(pages * resource.getpagesize() / 2**20)
            self.traced.append(tracemalloc.get_traced_memory()[0] / 2**20)


def train(steps: int, directory: str) -> Clock:
    """Train with everything on."""
    seed_everything(0, verbose=False)
    x = torch.randn(1024, 16)
    data = TensorDataset(x, x[:, :4].argmax(1))
    clock = Clock(steps // PARTS)
    pairs = ls.Ties("a.0.*", "b.0.*")
    callbacks = [
        ls.Regularize(
            ls.Penalty("squared", "element", "mean"), pairs, 0.1, schedule=ls.Ramp(steps // 2)
        ),
        ls.Regularize(ls.Penalty("squared", "element", "start"), ls.Ties("c.*"), 0.01),
        ls.Regularize(
            ls.Penalty("owl", "input", "zero", weights=ls.OwlWeights(1.0, 0.1)),
            ls.Ties("a.2.weight"),
            1e-4,
        ),
        ls.Regularize(ls.Penalty("l1", "output", "mean"), ls.Ties("b.2.*", "c.2.*"), 1e-3),
        ls.Share(ls.Ties("a.4.*", "b.4.*")),
        ls.SharingMonitor(),
        ModelCheckpoint(f"{directory}/checkpoints", monitor="val/loss", save_last=True),
        clock,
    ]
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=callbacks,
        logger=CSVLogger(directory),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    loader = DataLoader(data, batch_size=16, shuffle=True)
    trainer.fit(Models(), loader, DataLoader(data, batch_size=128))
    return clock


def main(steps: int) -> None:
    """Train twice, and print the table."""
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)
    with TemporaryDirectory() as directory:
        clock = train(steps, directory)
    tracemalloc.start()
    with TemporaryDirectory() as directory:
        traced = train(steps, directory).traced
    tracemalloc.stop()
    print(f"{'steps':>8} {'resident MiB':>13} {'Python MiB':>11} {'ms per step':>12}")
    medians = [
        statistics.median(clock.seconds[i : i + clock.part]) for i in range(0, steps, clock.part)
    ]
    for part, (resident, own, median) in enumerate(
        zip(clock.resident, traced, medians, strict=True), start=1
    ):
        print(f"{part * clock.part:8,} {resident:13.1f} {own:11.2f} {1e3 * median:12.2f}")
    print(
        f"last part over the second: resident {clock.resident[-1] / clock.resident[1]:.3f}, "
        f"Python {traced[-1] / traced[1]:.3f}, step {medians[-1] / medians[1]:.2f}"
    )


if __name__ == "__main__":
    main(max(1, int(sys.argv[1]) // PARTS) * PARTS if len(sys.argv) > 1 else 10_000)
