"""Several processes in a run, or in a cell of a sweep."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed
from typing_extensions import override

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app.config import sweep_name


class Spawned(DDPStrategy):
    """``ddp_spawn`` that ends its process group before its processes: gloo's threads may abort one that does not."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    @override
    def teardown(self) -> None:
        super().teardown()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def refuse_copies_of_a_sweep(trainer: Trainer) -> None:
    """Raise if training would start the command line again, which in a multirun is the whole sweep.

    Processes that are spawned get this process's objects, and those that SLURM starts were launched with the cell's
    config, so both train the same cell.

    Raises:
        ConfigError: If the trainer starts copies of this command, in a multirun.
    """
    if sweep_name() is not None and isinstance(
        trainer.strategy.launcher, _SubprocessScriptLauncher
    ):
        raise ConfigError(
            f"trainer: {type(trainer.strategy).__name__} with {trainer.num_devices} devices starts processes that would"
            " run the whole multirun again: write trainer.strategy=ddp_spawn, or trainer.devices=1"
        )
