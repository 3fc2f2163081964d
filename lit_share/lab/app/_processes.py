"""Several processes in one run."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app.config import sweep_name
from lit_share.lightnings import is_a, module_of


def spawned(model: object = None) -> Any:
    """Return ``ddp_spawn`` that destroys its process group at the end, of a model's Lightning."""
    # The group's gloo threads may abort a process that ends.
    strategy = module_of(model, "strategies").DDPStrategy(start_method="spawn")
    # A subclass would have to be one of either package's class, and be found by `pickle`.
    strategy.teardown = partial(_tear_down, strategy)
    return strategy


def _tear_down(strategy: Any) -> None:
    type(strategy).teardown(strategy)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def refuse_copies_of_a_sweep(trainer: Trainer) -> None:
    """Raise `ConfigError` if, in a multirun, the trainer would start the whole command again."""
    # Spawned processes get this process's objects, and SLURM starts its processes with the cell's
    # config, so both train the same cell.
    strategy = trainer.strategy
    if sweep_name() is None or not is_a(strategy.launcher, "_SubprocessScriptLauncher"):
        return
    raise ConfigError(
        f"trainer: {type(strategy).__name__} with {trainer.num_devices} devices starts processes"
        " that would run the whole multirun again: write trainer.strategy=ddp_spawn, or"
        " trainer.devices=1"
    )
