"""A callback for sweeps, which kills the process of the cell with seed 1."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class Killed(Callback):
    def __init__(self, folder: str, seed: int) -> None:
        self.deaths, self.seed = Path(folder, "deaths"), seed

    def on_train_epoch_end(self, *_: Any) -> None:
        if self.seed == 1:
            with self.deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
