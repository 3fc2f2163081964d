"""One run: train, validate and test the best checkpoint, and write down what came out."""

from __future__ import annotations

import logging
import time
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import rich
import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._errors import one_line
from lit_share.lab.app._figures import filters_to_draw, log_positions
from lit_share.lab.app._objective import (
    ObjectiveIsKnown,
    can_be_tested,
    missing_test_metric,
    model_of,
    unknown_objective,
)
from lit_share.lab.app._processes import refuse_copies_of_a_sweep
from lit_share.lab.app._sweep import RESULT_FILE, checkpoint_to_go_on_from, write_json
from lit_share.lab.app.build import Job, build, evaluator
from lit_share.lab.app.config import (
    CONFIG_FILE,
    check_folders,
    choice,
    identity,
    prepare,
    refuse_another_experiment,
    strategy,
    strength,
    sweep_name,
)
from lit_share.lab.app.retrain import check_retraining, retrain, wants_retraining
from lit_share.lab.app.tracking import (
    begin_wandb,
    go_on_in_wandb,
    is_first_rank,
    log_plans,
    log_result,
    read_csv_columns,
    wandb_finished,
)
from lit_share.metrics import count_numbers, count_tied, overall_distance, sharing_stats
from lit_share.sharing import share
from lit_share.text import visible
from lit_share.ties import Tie, TieError

log = logging.getLogger(__name__)
_printed: set[tuple[str, str]] = set()  # plans, by the names of their regularizers


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
    # For every cell of a sweep with little data: steps are counted across epochs, so they are logged all the same.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    try:
        config = _ready(config, output_dir)
    except ConfigError as error:
        if sweep_name() is not None:
            _write(_refused(config, overrides, error), output_dir)
        raise
    OmegaConf.save(config, output_dir / CONFIG_FILE)
    result = _facts(config, overrides)
    try:
        with wandb_finished():
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            seed_everything(config.seed, workers=True, verbose=False)
            job = build(config)
            refuse_copies_of_a_sweep(job.trainer)
            begin_wandb(job.trainer.loggers)
            _check_ties(job, config, overrides)
            _print_plan(job, config)
            check_retraining(job, config)
            job.trainer.callbacks.append(ObjectiveIsKnown(config.objective))  # type: ignore[attr-defined]
            if not can_be_tested(model_of(config.objective, job.model)[0], job.data):
                _warn_of_missing_test_metric(job, config, ())
            result |= _train(job, config)
            _warn_of_missing_test_metric(job, config, result["test"])
            objective = _objective(result)
            _log_summary(job, result)
            try:
                _write(result, output_dir)  # before W&B takes its time to finish
            finally:
                if is_first_rank() and sweep_name() is None:
                    rich.print(_table(result))
    except Exception as error:  # what is interrupted has not failed: it can go on
        try:
            _write(result | {"status": "failed", "error": one_line(error)}, output_dir)
        except OSError as second:
            log.error("%s", second)
        raise
    if is_first_rank() and sweep_name() is None:
        print(f"written to {output_dir}")
    return objective


def _ready(config: DictConfig, output_dir: Path) -> DictConfig:
    """The config as it is used; a cell of a sweep that was cut off goes on from its last checkpoint."""
    prepared = prepare(config)
    check_folders(prepared)
    own = prepared.ckpt_path is None and sweep_name() is not None
    path = checkpoint_to_go_on_from(output_dir) if own else prepared.ckpt_path
    if path is not None and (problem := _problem_of_checkpoint(path)):
        if not own:
            raise ConfigError(f"ckpt_path={path} {problem}")
        log.warning("%s %s: starting anew", path, problem)
        path = None
    if path is not None:
        prepared.ckpt_path = path
        refuse_another_experiment(prepared)
        if "wandb" in prepared.logger:
            go_on_in_wandb(prepared.logger.wandb, output_dir)
    if prepared.strength is not None and strength(prepared) is None:
        log.warning(
            "strength=%s has no effect: %s has no strength", prepared.strength, strategy(prepared)
        )
    return prepared


def _problem_of_checkpoint(path: str) -> str | None:
    """Why training cannot go on from a file, or `None`; what Lightning finds by itself is left to it."""
    if not Path(path).suffix or "://" in path or Path(path).is_dir():
        return None
    if not Path(path).exists():
        return "is not there"
    if not zipfile.is_zipfile(path):
        return "is not a checkpoint, or only a part of one"
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # there may be classes of a user's own in it
        return None
    if not isinstance(content, Mapping) or "pytorch-lightning_version" not in content:
        return "holds no training that can go on, but other data, such as weights: take what ModelCheckpoint saved"
    return None


def _refused(config: DictConfig, overrides: list[str], error: ConfigError) -> dict[str, Any]:
    """What is known of a cell whose config cannot be used."""
    return identity(config, overrides) | {"status": "failed", "error": one_line(error)}


def _facts(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    return identity(config, overrides) | {"error": None, "strength": strength(config)}


def _check_ties(job: Job, config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise where the patterns of ``ties`` do not fit the model, also if only their distances are watched."""
    watched = [c.ties for c in job.trainer.callbacks if isinstance(c, SharingMonitor)]  # type: ignore[attr-defined]
    if wants_retraining(job, config) and repr(job.ties) not in map(repr, watched):
        return  # after which nothing asks for them
    try:
        job.ties.find(job.model)
    except TieError as error:
        if any(override.lstrip("+").startswith("ties.") for override in overrides):
            raise
        chosen = " ".join(
            f"{group}={name}" for group in ("ties", "experiment") if (name := choice(group))
        )
        raise TieError(
            f"{error}\nThese are the patterns of {chosen}: write your own with ties.patterns=[...]"
        ) from None


def _print_plan(job: Job, config: DictConfig) -> None:
    """Print what is tied with what; wrong patterns are an error here, before training.

    The cells of a sweep have few plans: each is printed once in a process.
    """
    plans = {
        n: r.ties.plan(job.model)
        for n, r in job.regularizers.items()
        if isinstance(r, (Regularize, Share))
    }
    if config.ckpt_path is not None:  # whose values come later
        plans = {name: replace(plan, unaligned=()) for name, plan in plans.items()}
    log_plans(job.trainer.loggers, plans)
    if sweep_name() is not None:
        plans = {name: plan for name, plan in plans.items() if (name, str(plan)) not in _printed}
        _printed.update((name, str(plan)) for name, plan in plans.items())
    for name, plan in plans.items():
        rich.print(Text(visible(name), style="bold"), plan)
    if not job.regularizers and sweep_name() is None:
        rich.print("[bold]none[/bold]: nothing is shared")


def _warn_of_missing_test_metric(job: Job, config: DictConfig, test: Collection[str]) -> None:
    """Say once what is to be logged in tests, before training where that is known then."""
    problem = missing_test_metric(config.objective, test, job.model)
    if problem is not None and is_first_rank():
        _warn_once(problem)


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _train(job: Job, config: DictConfig) -> dict[str, Any]:
    trainer, model, data = job.trainer, job.model, job.data
    for regularizer in job.regularizers.values():
        if isinstance(regularizer, Share) and regularizer.is_before_training:
            # The callback would do so too, but only where the training runs, and after parameters are counted.
            share(model, regularizer.ties, regularizer.init, buffers=regularizer.buffers)
    for logger in trainer.loggers:
        logger.log_hyperparams({**OmegaConf.to_container(config), **_parameter_counts(job)})  # type: ignore[dict-item]
    filters = filters_to_draw(trainer.loggers, model)
    begin = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt_path)
    # Of training to its end: tests give callbacks the state back that they had at the best checkpoint.
    monitors = [c for c in trainer.callbacks if isinstance(c, SharingMonitor)]  # type: ignore[attr-defined]
    distances = monitors[0].history if monitors else {}
    training_bytes = _training_bytes(job)
    rows = None
    if wants_retraining(job, config):
        read_csv_columns(trainer.loggers)
        job, rows = retrain(job, config)
        trainer = job.trainer
    seconds = time.perf_counter() - begin
    log_positions(trainer.loggers, model, filters, trainer.global_step)
    read_csv_columns(trainer.loggers)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    tester = evaluator(job, config)
    validation = tester.validate(model, datamodule=data, ckpt_path=best, verbose=False)
    has_tests = can_be_tested(model, data)
    test = tester.test(model, datamodule=data, ckpt_path=best, verbose=False) if has_tests else []
    step, epoch = trainer.global_step, trainer.current_epoch
    if best is not None:
        # Where processes were spawned, only they know where training was and what callbacks remember.
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        step, epoch = checkpoint["global_step"], checkpoint["epoch"]
        for regularizer in job.regularizers.values():
            if regularizer.state_key in checkpoint["callbacks"]:
                regularizer.load_state_dict(checkpoint["callbacks"][regularizer.state_key])
        for monitor in monitors[:1]:
            distances = distances or checkpoint["callbacks"].get(monitor.state_key, {}).get(
                "history", {}
            )
    return {
        "validation": _merged(validation),
        "test": _merged(test),
        "sharing": _sharing(job, step, epoch) if rows is None else sharing_stats(model).as_dict(),
        "rows": rows,
        "seconds": seconds,
        "checkpoint": best,
        "tied": _tied(job) if rows is None else {},
        "training_bytes": training_bytes,
        **({"distances": distances} if monitors else {}),
    }


def _objective(result: dict[str, Any]) -> float:
    """The objective's value on validation data."""
    if result["objective"] not in result["validation"]:
        raise ValueError(unknown_objective(result["objective"], result["validation"]))
    return float(result["validation"][result["objective"]])


def _merged(metrics_of_loaders: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: value for metrics in metrics_of_loaders for name, value in metrics.items()}


def _parameter_counts(job: Job) -> dict[str, int]:
    stats = count_numbers(job.model)
    trainable = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    return {
        "parameters/total": stats.total,
        "parameters/unique": stats.unique,
        "parameters/trainable": trainable,
    }


def _sharing(job: Job, step: int, epoch: int) -> dict[str, float | None]:
    """What sharing did to the tested model, which was saved after so many steps and epochs."""
    ties = _ties_of_several(job)
    penalties = [
        r.value(job.model, step, epoch)
        for r in job.regularizers.values()
        if isinstance(r, Regularize)
    ]
    return {
        "penalty": sum(penalties),
        "distance": overall_distance([tie.tensors() for tie in ties]) if ties else None,
        **sharing_stats(job.model, ties).as_dict(),
    }


def _tied(job: Job) -> dict[str, float]:
    """The fraction of positions in which all members of a tie are exactly equal, by the tie's name."""
    return {
        tie.name: count_tied(tie.tensors()) / max(tie.numel, 1) for tie in _ties_of_several(job)
    }


def _ties_of_several(job: Job) -> list[Tie]:
    """The ties of more than one member."""
    return [tie for tie in job.ties.find(job.model) if len(tie.members) > 1]


def _training_bytes(job: Job) -> int | None:
    """Bytes of the parameters, their gradients and the optimizers' state, when the penalty's training has ended.

    `None` where the processes that trained were spawned: only they had optimizers.
    """
    optimizers = job.trainer.optimizers
    if not optimizers:
        return None
    parameters = set(job.model.parameters())
    gradients = [p for p in parameters if p.requires_grad]
    slots = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
    ]
    tensors = {id(slot): slot for slot in slots if isinstance(slot, torch.Tensor)}.values()
    return sum(t.numel() * t.element_size() for t in (*parameters, *gradients, *tensors))


def _log_summary(job: Job, result: dict[str, Any]) -> None:
    """The tested model's numbers, beside the curves."""
    final = {f"final/{key}": value for key, value in result["sharing"].items() if value is not None}
    for logger in job.trainer.loggers:
        logger.log_metrics(final, step=job.trainer.global_step)
        logger.save()
    log_result(job.trainer.loggers, result["test"] | final)


def _write(result: dict[str, Any], output_dir: Path) -> None:
    if is_first_rank():
        write_json(output_dir / RESULT_FILE, result)


def _table(result: dict[str, Any]) -> Table:
    table = Table(
        title=Text(f"{visible(result['strategy'])}, seed {result['seed']}"),
        box=SIMPLE,
        show_header=False,
    )
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in result["test"].items():
        table.add_row(Text(visible(name)), f"{value:.4f}")
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
