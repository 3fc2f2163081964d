"""What learned strengths add to a training: `python -m benchmarks.speed learned_strengths`.

A Trainer without penalties, with a given strength and with `Learned()` alternate, each for three
epochs, without validation, so that nothing dilutes what learning costs. Batches are of 64, and so
are those of the validation data.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from benchmarks.speed._clock import Row, alternate, spread

REPEATS, BATCHES, EPOCHS = 7, 60, 3
WIDTHS = {"MLPs 64-64-64-10": 64, "MLPs 64-512-512-10": 512}
# The most that a training may take, relative to one without the penalty.
TARGET = 1.35


class Pair(LightningModule):
    """Two classifiers of the same images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Sequential(
                nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                nn.Linear(width, 10),
            )
            for _ in range(2)
        )  # fmt: skip

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The sum of both losses."""
        x, y = batch
        return nn.functional.cross_entropy(self.a(x), y) + nn.functional.cross_entropy(self.b(x), y)

    def validation_step(self, batch: list[Tensor]) -> Tensor:
        """The same."""
        return self.training_step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data(examples: int) -> DataLoader[tuple[Tensor, ...]]:
    """Random images and labels."""
    x, y = torch.randn(examples, 64), torch.randint(0, 10, (examples,))
    return DataLoader(TensorDataset(x, y), batch_size=64)


def train(width: int, penalty: str, strength: float | ls.Learned | None) -> None:
    """Train for a few epochs."""
    callbacks = []
    if strength is not None:
        callbacks.append(ls.Regularize(penalty, ls.Ties("a.*", "b.*"), strength))
    trainer = Trainer(
        max_epochs=EPOCHS, limit_val_batches=0, accelerator="cpu", callbacks=callbacks,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Pair(width), data(64 * BATCHES))


def measure() -> Iterator[Row]:
    """The rows."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    learned = ls.Learned(loader=data(1024))
    for what, width in WIDTHS.items():
        for penalty in ("soft_tie", "layer_tie"):
            contestants = {
                "plain": lambda width=width: train(width, "", None),
                "given": lambda width=width, penalty=penalty: train(width, penalty, 0.01),
                "learned": lambda width=width, penalty=penalty: train(width, penalty, learned),
            }
            times = alternate(contestants, REPEATS)
            for name, target in (("given", None), ("learned", TARGET)):
                pairs = zip(times[name], times["plain"], strict=True)
                ratios = [own / plain for own, plain in pairs]
                row = f"{penalty}, strength {name}, {what}"
                yield spread(row, ratios, against="no penalty", target=target)
