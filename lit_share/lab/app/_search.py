"""What a run does as a trial of a search or a race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig

from lit_share.lab.app.build import Job
from lit_share.lab.app.config import sweep_name
from lit_share.lab.race import Pause, layers_of
from lit_share.lab.results import Result
from lit_share.lab.search import Course, NoteCourse, Prune, trials_of
from lit_share.lab.sweeps import known_cells


def join_search(job: Job, config: DictConfig, output_dir: Path, result: Result) -> Result:
    """Add the callback that stops a trial early, if the run is one, and complete its result.

    Args:
        job: The job; its trainer gets the callback.
        config: The prepared config.
        output_dir: The folder of the run, which is named by `cells.json` beside it.
        result: The result of the run before training.

    Returns:
        The result. In a race it has the tied layers, and the excluded ties are tuned.
    """
    if sweep_name() is None:
        return result
    directory, folder = output_dir.absolute().parent, output_dir.name
    cells = known_cells(directory)
    # Cells of a grid have no study, and neither have runs of Hydra's own sweeper.
    cell = cells.get(folder, {})
    # First, as checkpoints, which come later, are to have the state of the last validation.
    callbacks: list[Callback] = job.trainer.callbacks  # type: ignore[attr-defined]
    if "race" in cell:
        epochs = None
        # The winner of a race is no trial any more.
        if "trial" in cell:
            epochs = cell["epochs"]
        callbacks.insert(0, Pause(output_dir, config.objective, config.mode, epochs))
        # Winners of other seeds tie other layers, but belong to the same row of a table.
        tune = [*dict.fromkeys([*result.tune, "ties.exclude"])]
        return replace(result, tune=tune, layers=layers_of(job.ties.find(job.model)))
    if "study" in cell:
        callbacks.insert(0, _prune_of(cell, cells, config, output_dir))
    return result


def _prune_of(
    cell: Mapping[str, Any],
    cells: Mapping[str, Mapping[str, Any]],
    config: DictConfig,
    output_dir: Path,
) -> Prune:
    directory = output_dir.absolute().parent
    trials = trials_of(directory, cells, cell["study"], before=cell["trial"])
    # A launcher composes this config anew, so that processes need not send a pruner.
    pruner = instantiate(HydraConfig.get().sweeper.get("pruner"))
    return Prune(output_dir, config.objective, config.mode, cell["study"], trials, pruner)


def course_of(trainer: Trainer) -> Course:
    """Return the course of a run that has trained; it is empty outside of searches and races."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, NoteCourse):
            return Course.read(callback.folder)
    return Course()
