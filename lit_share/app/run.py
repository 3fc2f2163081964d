"""One run: train, validate and test the best checkpoint, and write down what came out."""

from __future__ import annotations

import json
import logging
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich
import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.table import Table

from lit_share.app.build import Job, build, evaluator
from lit_share.app.config import CONFIG_FILE, choice, prepare, refuse_another_experiment, strategy, strength
from lit_share.app.retrain import retrain, wants_retraining
from lit_share.app.tracking import is_first_rank, read_csv_columns, wandb_finished
from lit_share.callbacks import Regularize, Share
from lit_share.sharing import overall_distance, share, sharing_stats
from lit_share.sharing._stats import count_numbers

log = logging.getLogger(__name__)


def run(config: DictConfig, output_dir: Path, overrides: list[str]) -> float:
    """Do what the config says.

    Args:
        config: What Hydra composed from ``conf/train.yaml``.
        output_dir: Where ``result.json`` is written.
        overrides: What the user wrote on the command line.

    Returns:
        The objective on validation data, of the best checkpoint.

    Raises:
        ConfigError: Before anything is built, if the config is wrong.
        TieError: Before training, if the ties do not fit the model.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6 asks torch 2.13 something in a way that is to go away, at every batch.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    config = prepare(config)
    if config.ckpt_path is not None:
        refuse_another_experiment(config)
    if config.strength is not None and strength(config) is None:
        log.warning("strength=%s has no effect: %s has no strength", config.strength, strategy(config))
    OmegaConf.save(config, output_dir / CONFIG_FILE)
    result = _facts(config, overrides)
    try:
        with wandb_finished():
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            seed_everything(config.seed, workers=True, verbose=False)
            job = build(config)
            _print_plan(job)
            result |= _train(job, config)
            objective = _objective(result)
            _log_summary(job, result)
    except BaseException as error:
        result |= {"status": "failed", "error": "".join(traceback.format_exception_only(error)).strip()}
        _write(result, output_dir)
        raise
    _write(result, output_dir)
    if is_first_rank():
        rich.print(_table(result))
        print(f"written to {output_dir}")
    return objective


def _facts(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "finished",
        "error": None,
        "strategy": strategy(config),
        "data": choice("data"),
        "ties": choice("ties"),
        "model": choice("model"),
        "strength": strength(config),
        "seed": config.seed,
        "objective": config.objective,
        "mode": config.mode,
        "tune": list(config.tune),
        "overrides": overrides,
    }


def _print_plan(job: Job) -> None:
    """Print what is tied with what; wrong patterns are an error here, before training."""
    for name, regularizer in job.regularizers.items():
        if isinstance(regularizer, (Regularize, Share)):
            rich.print(f"[bold]{name}[/bold]", regularizer.ties.plan(job.model))
    if not job.regularizers:
        rich.print("[bold]none[/bold]: nothing is shared")


def _train(job: Job, config: DictConfig) -> dict[str, Any]:
    trainer, model, data = job.trainer, job.model, job.data
    for regularizer in job.regularizers.values():
        if isinstance(regularizer, Share) and regularizer.is_before_training:
            # The callback would do so too, but only where the training runs, and after parameters are counted.
            share(model, regularizer.ties, regularizer.init, buffers=regularizer.buffers)
    for logger in trainer.loggers:
        logger.log_hyperparams({**OmegaConf.to_container(config), **_parameter_counts(job)})  # type: ignore[dict-item]
    begin = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt_path)
    rows = None
    if wants_retraining(job, config):
        read_csv_columns(trainer.loggers)
        job, rows = retrain(job, config)
        trainer = job.trainer
    seconds = time.perf_counter() - begin
    read_csv_columns(trainer.loggers)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    tester = evaluator(job, config)
    validation = tester.validate(model, datamodule=data, ckpt_path=best, verbose=False)
    test = tester.test(model, datamodule=data, ckpt_path=best, verbose=False)
    step, epoch = trainer.global_step, trainer.current_epoch
    if best is not None:
        # Where processes were spawned, only they know where training was and what callbacks remember.
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        step, epoch = checkpoint["global_step"], checkpoint["epoch"]
        for regularizer in job.regularizers.values():
            if regularizer.state_key in checkpoint["callbacks"]:
                regularizer.load_state_dict(checkpoint["callbacks"][regularizer.state_key])
    return {
        "validation": _merged(validation),
        "test": _merged(test),
        "sharing": _sharing(job, step, epoch) if rows is None else sharing_stats(model).as_dict(),
        "rows": rows,
        "seconds": seconds,
        "checkpoint": best,
    }


def _objective(result: dict[str, Any]) -> float:
    """The objective's value on validation data."""
    if result["objective"] not in result["validation"]:
        known = ", ".join(result["validation"])
        raise ValueError(f"objective={result['objective']} is not among the validation metrics: write one of {known}")
    return float(result["validation"][result["objective"]])


def _merged(metrics_of_loaders: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: value for metrics in metrics_of_loaders for name, value in metrics.items()}


def _parameter_counts(job: Job) -> dict[str, int]:
    stats = count_numbers(job.model)
    trainable = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    return {"parameters/total": stats.total, "parameters/unique": stats.unique, "parameters/trainable": trainable}


def _sharing(job: Job, step: int, epoch: int) -> dict[str, float | None]:
    """What sharing did to the tested model, which was saved after so many steps and epochs."""
    ties = [tie for tie in job.ties.find(job.model) if len(tie.members) > 1]
    penalties = [r.value(job.model, step, epoch) for r in job.regularizers.values() if isinstance(r, Regularize)]
    return {
        "penalty": sum(penalties),
        "distance": overall_distance([tie.tensors() for tie in ties]) if ties else None,
        **sharing_stats(job.model, ties).as_dict(),
    }


def _log_summary(job: Job, result: dict[str, Any]) -> None:
    """The tested model's numbers, beside the curves."""
    final = {f"final/{key}": value for key, value in result["sharing"].items() if value is not None}
    for logger in job.trainer.loggers:
        logger.log_metrics(final, step=job.trainer.global_step)
        logger.save()


def _write(result: dict[str, Any], output_dir: Path) -> None:
    if is_first_rank():
        (output_dir / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['strategy']}, seed {result['seed']}", box=SIMPLE, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in result["test"].items():
        table.add_row(name, f"{value:.4f}")
    table.add_section()
    sharing = result["sharing"]
    if result["rows"] is None:
        table.add_row("penalty", f"{sharing['penalty']:.4g}")
        if sharing["distance"] is not None:
            table.add_row("distance", f"{sharing['distance']:.4f}")
    else:
        table.add_row("sparsity", f"{sharing['sparsity']:.3f}")
        table.add_row("sharing", f"{sharing['sharing']:.2f}")
    table.add_row("parameters", f"{sharing['total']:,}")
    table.add_row("unique parameters", f"{sharing['unique']:,}")
    table.add_row("compression", f"{sharing['compression']:.2f}")
    if sharing["bytes"] is not None:
        table.add_row("bytes in a compact file", f"{sharing['bytes']:,}")
    table.add_row("seconds", f"{result['seconds']:.1f}")
    return table
