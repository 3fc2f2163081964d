"""Check a built job before it is trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache

import rich
from lightning.pytorch import Callback
from omegaconf import DictConfig
from rich.text import Text

from lit_share.callbacks import Align, Regularize, Share, SharingMonitor, TieRows
from lit_share.lab.app._objective import (
    ObjectiveIsKnown,
    can_be_tested,
    missing_test_metric,
    model_of,
)
from lit_share.lab.app._processes import refuse_copies_of_a_sweep
from lit_share.lab.app._stages import check_stages
from lit_share.lab.app.build import Job
from lit_share.lab.app.config import choice, sweep_name
from lit_share.lab.app.retrain import check_retraining, wants_retraining
from lit_share.lab.app.tracking import begin_wandb, is_first_rank, log_plans
from lit_share.text import visible
from lit_share.ties import TieError

log = logging.getLogger(__name__)
# The plans printed by this process, with the regularizers that have them: the cells of a sweep
# would otherwise repeat the same tables.
_printed: dict[str, set[str]] = {}


def check_job(job: Job, config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise errors that would stop training later, and print which parameters are tied.

    Args:
        job: The job as it was built.
        config: The config that it was built from.
        overrides: The overrides of the command line.

    Raises:
        ConfigError: If training would start the whole sweep again.
        TieError: If the ties do not fit the model.
        ValueError: If the second phase could not train, or the data could not be evaluated.
    """
    refuse_copies_of_a_sweep(job.trainer)
    begin_wandb(job.trainer.loggers)
    _check_ties(job, config, overrides)
    _print_plan(job, config)
    check_retraining(job, config)
    check_stages(job, config)
    callbacks: list[Callback] = job.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(ObjectiveIsKnown(config.objective, config.mode))
    if not can_be_tested(model_of(config.objective, job.model)[0], job.data):
        warn_of_missing_test_metric(job, config.objective, ())


def warn_of_missing_test_metric(job: Job, objective: str, test: Collection[str]) -> None:
    """Warn once if tests do not log the metric by which runs are compared."""
    problem = missing_test_metric(objective, test, job.model)
    if problem is not None and is_first_rank():
        _warn_once(problem)


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _check_ties(job: Job, config: DictConfig, overrides: Sequence[str]) -> None:
    callbacks: list[Callback] = job.trainer.callbacks  # type: ignore[attr-defined]
    monitored = [c.ties for c in callbacks if isinstance(c, SharingMonitor)]
    if wants_retraining(job, config) and repr(job.ties) not in map(repr, monitored):
        # The second phase replaces weights by codebooks, and evaluation then reads no ties.
        return
    try:
        job.ties.find(job.model)
    except TieError as error:
        if any(override.lstrip("+").startswith("ties.") for override in overrides):
            raise
        # The user wrote no patterns, so the error says which config file they come from.
        names = ((group, choice(group)) for group in ("ties", "experiment"))
        chosen = " ".join(f"{group}={name}" for group, name in names if name)
        raise TieError(
            f"{error}\nThese are the patterns of {chosen}: write your own with ties.patterns=[...]"
        ) from None


def _print_plan(job: Job, config: DictConfig) -> None:
    """Log and print which parameters each regularizer ties; a sweep prints each plan only once."""
    plans = {}
    callbacks: list[Callback] = job.trainer.callbacks  # type: ignore[attr-defined]
    aligning = [callback for callback in callbacks if isinstance(callback, Align)]
    for name, regularizer in job.regularizers.items():
        if isinstance(regularizer, (Regularize, Share, TieRows)):
            plan = regularizer.ties.plan(job.model)
            if config.ckpt_path is not None:
                # Initial weights are replaced by those of the checkpoint, so that it does not
                # matter whether they are unaligned.
                plan = replace(plan, unaligned=(), unlike=())
            if aligning and plan.unaligned:
                aligned = {
                    tie.name
                    for tie in regularizer.ties.find(job.model)
                    if any(callback.includes(tie) for callback in aligning)
                }
                left = [tie for tie in plan.unaligned if tie not in aligned]
                plan = replace(plan, unaligned=tuple(left))
            plans[name] = plan
    log_plans(job.trainer.loggers, plans)
    # Regularizers that follow each other, such as a penalty and `Share`, may have the same ties.
    names: dict[str, list[str]] = {}
    for name, plan in plans.items():
        names.setdefault(str(plan), []).append(name)
    for text, own in names.items():
        title = ", ".join(own)
        known = _printed.setdefault(text, set())
        if sweep_name() is None or not known:
            rich.print(Text(visible(title), style="bold"), plans[own[0]])
        elif title not in known:
            print(f"{visible(title)}: the same ties as {visible(min(known))}")
        known.add(title)
    if not job.regularizers and sweep_name() is None:
        rich.print("[bold]none[/bold]: nothing is shared")
