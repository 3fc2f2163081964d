"""One run, in one direction: compose, check, build, train, evaluate, report."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from lit_share.files import write_text
from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._check_job import check_job
from lit_share.lab.app._checkpoints import own_classes_allowed
from lit_share.lab.app._compose import compose
from lit_share.lab.app._environment import Environment
from lit_share.lab.app._evaluate import evaluate
from lit_share.lab.app._folder import clear_folder
from lit_share.lab.app._report import finished_result, pruned_result, report
from lit_share.lab.app._search import join_search
from lit_share.lab.app._train import train
from lit_share.lab.app.build import build
from lit_share.lab.app.config import CONFIG_FILE, strength, sweep_name, unfinished_result
from lit_share.lab.app.tracking import is_first_rank, wandb_finished, wandb_hint
from lit_share.lab.errors import one_line
from lit_share.lab.results import Result
from lit_share.lab.sweeps import alone_in_run
from lit_share.lightnings import PACKAGES
from lit_share.paired import readable_hyperparameters
from lit_share.text import print_any_letter

log = logging.getLogger(__name__)


def run(config: DictConfig, output_dir: Path, overrides: list[str]) -> float | None:
    """Run the job that a config describes.

    Args:
        config: The config that Hydra composed from ``conf/train.yaml``.
        output_dir: The folder for ``result.json``.
        overrides: The overrides of the command line.

    Returns:
        The best objective on validation data, of the best checkpoint or of a run that was pruned;
        `None` after a dry run.

    Raises:
        ConfigError: Before anything is built, if the config is wrong.
        TieError: Before training, if the ties do not fit the model.
        InUseError: If another process trains this cell of a sweep; single runs exit with 2.
    """
    _silence_others()
    print_any_letter()
    # A dry run writes nothing, and one rank works for all.
    if config.dry_run or not is_first_rank():
        return _run(config, output_dir, overrides)
    with alone_in_run(output_dir, is_cell=sweep_name() is not None):
        return _run(config, output_dir, overrides)


def _run(config: DictConfig, output_dir: Path, overrides: list[str]) -> float | None:
    environment = Environment.of(config)
    try:
        prepared = compose(config, output_dir, environment)
    except ConfigError as error:
        if sweep_name() is not None:
            _write_failure(unfinished_result(config, overrides, output_dir), error, environment)
        raise
    if prepared.dry_run:
        # Nothing is logged to W&B.
        prepared.logger = {}
    # Reports contain this, and loggers may send it anywhere.
    passed_on = environment.hide(OmegaConf.to_container(prepared))
    result = unfinished_result(prepared, overrides, output_dir)
    result = replace(result, strength=strength(prepared))
    try:
        with wandb_finished():
            if prepared.threads is not None:
                torch.set_num_threads(prepared.threads)
            seed_everything(prepared.seed, workers=True, verbose=False)
            job = build(prepared)
            environment.hide_in_hyperparameters(job.model, job.data)
            # A package sets the level of its logger when it is imported, as by the model.
            _silence_lightning()
            # Before training, as a checkpoint that cannot be read would lose it.
            with own_classes_allowed(), readable_hyperparameters(job.model, job.data):
                check_job(job, prepared, overrides)
                if prepared.dry_run:
                    print("dry run: everything was built and checked, and nothing is trained")
                    return None
                if is_first_rank():
                    clear_folder(output_dir, prepared.ckpt_path)
                    text = OmegaConf.to_yaml(OmegaConf.create(passed_on))
                    write_text(output_dir / CONFIG_FILE, text)
                result = join_search(job, prepared, output_dir, result)
                trained = train(job, prepared, passed_on)
                if trained.course.is_pruned:
                    result = pruned_result(result, trained)
                else:
                    result = finished_result(result, trained, evaluate(trained, prepared))
                report(result, trained)
    except Exception as error:
        # A run that was interrupted has no result, so that it is resumed rather than repeated.
        _write_failure(result, error, environment)
        raise
    if is_first_rank() and sweep_name() is None:
        print(f"written to {output_dir}")
        if hint := wandb_hint(prepared):
            print(hint)
    if result.status == "pruned":
        return result.course[-1]
    return result.validation[result.objective]


def _silence_others() -> None:
    _silence_lightning()
    # Lightning 2.6 triggers a deprecation warning of torch 2.13 at every batch.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # A sweep with little data would show this in every cell, although metrics are logged: steps are
    # counted across epochs.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")


def _silence_lightning() -> None:
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.WARNING)


def _write_failure(result: Result, error: Exception, environment: Environment) -> None:
    if is_first_rank():
        try:
            message = environment.hide_in(one_line(error))
            replace(result, status="failed", error=message).write()
        except OSError as second:
            # The first error is the one to raise.
            log.error("%s", second)
