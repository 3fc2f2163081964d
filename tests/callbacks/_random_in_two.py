"""Random states in two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import sys
import warnings

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from lit_share import KeepRandomState

from .._two_processes import run_here
from .test_keep_random_state import VALIDATION, Lit, draw, loader


def fit(epochs, ckpt_path=None):
    rank = distributed.get_rank()
    # Each rank draws its own numbers, as ranks with other shards of the data may come to.
    seed_everything(4 + rank, workers=True, verbose=False)
    module = Lit()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, strategy=DDPStrategy(process_group_backend="gloo"),
        callbacks=[KeepRandomState(), ModelCheckpoint("both", "{epoch}", save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(module, loader(), VALIDATION, ckpt_path=ckpt_path)
    return module, draw()


def each_rank_has_its_own():
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists")
    whole, after = fit(2)
    checkpoint = torch.load("both/epoch=0.ckpt", weights_only=True)
    first, second = checkpoint["callbacks"]["KeepRandomState"]["ranks"]
    assert not torch.equal(first["torch"], second["torch"])
    module, then = fit(2, "both/epoch=0.ckpt")
    assert module.drawn == whole.drawn[-len(module.drawn) :]
    assert len(module.drawn) == 4
    assert then == after


TABLE = {"each rank has its own": each_rank_has_its_own}

if __name__ == "__main__":
    run_here(TABLE, sys.argv[1])
