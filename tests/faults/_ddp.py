"""Training in two processes, of which one is killed: `python -m tests.faults._ddp RANK`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lightning.pytorch import Callback, Trainer

import lit_share as ls

from .._warnings import ignore_warnings_of_others
from ._run import Pair, fit


class Killed(Callback):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 3 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ignore_warnings_of_others()
    soft = ls.Penalty(norm="squared", groups="element", center="mean")
    penalty = ls.Regularize(soft, ls.Ties("a.*", "b.*"), strength=0.1)
    fit(Pair(), penalty, Killed(int(sys.argv[1])), devices=2, strategy="ddp")
