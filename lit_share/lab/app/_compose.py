"""Complete the config that Hydra composed, and choose the checkpoint to resume from."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._environment import Environment
from lit_share.lab.app.config import CONFIG_FILE, prepare, strategy, sweep_name
from lit_share.lab.app.tracking import prepare_wandb, resume_in_wandb
from lit_share.lab.sweeps import checkpoint_to_resume

log = logging.getLogger(__name__)


def compose(config: DictConfig, output_dir: Path, environment: Environment) -> DictConfig:
    """Check and complete a config; an interrupted cell resumes from its last checkpoint.

    Args:
        config: The config that Hydra composed.
        output_dir: The run's folder.
        environment: The values of the config that come from the environment.

    Returns:
        A resolved copy; its ``ckpt_path`` is the checkpoint to resume from.

    Raises:
        ConfigError: If the config is wrong, folders cannot be written to, or ``ckpt_path`` is not a
            checkpoint of this experiment.
    """
    prepared = prepare(config)
    _check_folders(prepared)
    path = prepared.ckpt_path
    if path is None and sweep_name() is not None:
        path = checkpoint_to_resume(output_dir)
    if path is not None and (problem := _problem_of_checkpoint(path)):
        if prepared.ckpt_path is not None:
            raise ConfigError(f"ckpt_path={path} {problem}")
        # The checkpoint was found in the cell's folder: nobody asked for it.
        log.warning("%s %s: starting from scratch", path, problem)
        path = None
    if path is not None:
        prepared.ckpt_path = path
        _refuse_another_experiment(prepared, environment)
        if "wandb" in prepared.logger:
            resume_in_wandb(prepared.logger.wandb, output_dir)
    if "wandb" in prepared.logger:
        prepare_wandb(prepared.logger.wandb)
    if prepared.strength is not None and not any(
        "strength" in node for node in prepared.regularizer.values()
    ):
        log.warning(
            "strength=%s has no effect: %s has no strength", prepared.strength, strategy(prepared)
        )
    return prepared


def _check_folders(config: DictConfig) -> None:
    # Training would fail only after its first epoch, when it saves the first checkpoint.
    for name, node in config.callbacks.items():
        if not isinstance(node, DictConfig) or not node.get("dirpath") or "://" in node.dirpath:
            continue
        folder = Path(node.dirpath).absolute()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(
                f"callbacks.{name}.dirpath={node.dirpath}: {existing} is not a folder that one can "
                "write to"
            )


def _problem_of_checkpoint(path: str) -> str | None:
    """Return why training cannot resume from a file; `None` if it can or only Lightning knows."""
    if not Path(path).suffix or "://" in path or Path(path).is_dir():
        # Lightning also takes words such as "last", addresses, and folders of sharded checkpoints.
        return None
    if not Path(path).exists():
        return "is not there"
    if not Path(path).is_file():
        return "is not a file but a device or a pipe, which may have no end"
    if not zipfile.is_zipfile(path):
        return "is not a checkpoint, or only a part of one"
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        # The checkpoint may contain the user's own classes, which Lightning can load.
        return None
    if not isinstance(content, Mapping) or "pytorch-lightning_version" not in content:
        return (
            "holds no training that can be resumed, but other data, such as weights: take what "
            "ModelCheckpoint saved"
        )
    return None


def _refuse_another_experiment(config: DictConfig, environment: Environment) -> None:
    # With other data or another seed, training would resume without an error; with another model,
    # the error would be about shapes.
    saved_config = Path(config.ckpt_path).absolute().parent.parent / CONFIG_FILE
    if not saved_config.exists():
        return
    saved: Any = OmegaConf.to_container(OmegaConf.load(saved_config))
    resolved: Any = OmegaConf.to_container(config)
    now, changed = environment.hide(resolved), []
    for key in ("model", "data", "ties", "align", "regularizer", "retrain", "seed"):
        # Earlier versions wrote values of the environment.
        if key in saved and saved[key] not in (now[key], resolved[key]):
            before = environment.hide(saved[key])
            changed.append(f"{key}: {before} in {saved_config}, but {now[key]} now")
    if changed:
        listed = "\n  ".join(changed)
        raise ConfigError(
            f"ckpt_path resumes another experiment; repeat its overrides:\n  {listed}"
        )
