"""What a run does as a trial of a search."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from lit_share.lab.app.config import sweep_name
from lit_share.lab.search import Course, Prune, trials_of
from lit_share.lab.sweeps import known_cells


def prune_of(config: DictConfig, output_dir: Path) -> Prune | None:
    """Build the callback that stops an unpromising trial; `None` outside of searches.

    Args:
        config: The prepared config.
        output_dir: The folder of the run, which is named by `cells.json` beside it.
    """
    if sweep_name() is None:
        return None
    directory, folder = output_dir.absolute().parent, output_dir.name
    cells = known_cells(directory)
    cell = cells.get(folder, {})
    # Cells of a grid have no study, and neither have runs of Hydra's own sweeper.
    if "study" not in cell:
        return None
    trials = trials_of(directory, cells, cell["study"], before=cell["trial"])
    # A launcher composes this config anew, so that processes need not send a pruner.
    pruner = instantiate(HydraConfig.get().sweeper.get("pruner"))
    return Prune(output_dir, config.objective, config.mode, cell["study"], trials, pruner)


def course_of(trainer: Trainer) -> Course:
    """Return the course of a run that has trained; it is empty outside of searches."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Prune):
            return Course.read(callback.folder)
    return Course()
