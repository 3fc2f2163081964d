"""Several processes in one run."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed
from typing_extensions import override

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app.config import sweep_name


class Spawned(DDPStrategy):
    """``ddp_spawn`` that destroys its process group, whose gloo threads may abort a process."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    @override
    def teardown(self) -> None:
        super().teardown()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def refuse_copies_of_a_sweep(trainer: Trainer) -> None:
    """Raise `ConfigError` if, in a multirun, the trainer would start the whole command again."""
    # Spawned processes get this process's objects, and SLURM starts its processes with the cell's
    # config, so both train the same cell.
    strategy = trainer.strategy
    if sweep_name() is None or not isinstance(strategy.launcher, _SubprocessScriptLauncher):
        return
    raise ConfigError(
        f"trainer: {type(strategy).__name__} with {trainer.num_devices} devices starts processes"
        " that would run the whole multirun again: write trainer.strategy=ddp_spawn, or"
        " trainer.devices=1"
    )
