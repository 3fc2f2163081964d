"""Log a run to its trackers, and finish its W&B run in every case."""

from __future__ import annotations

import csv
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, open_dict

from lit_share.lab.app.config import sweep_name
from lit_share.lightnings import is_a
from lit_share.ties import Plan, shortened

log = logging.getLogger(__name__)


def begin_wandb(loggers: Iterable[Any]) -> None:
    """Start the runs of W&B loggers before training; offline if W&B cannot be reached.

    W&B waits for ``WANDB_INIT_TIMEOUT``, 90 seconds by default.
    """
    for logger in loggers:
        if not is_a(logger, "WandbLogger") or not is_first_rank():
            continue
        import wandb

        # Lightning passes W&B a setting that it warns of, whatever its value.
        if logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)
        try:
            _ = logger.experiment
        except wandb.errors.CommError as error:
            reason = str(error).splitlines()[0]
            log.warning(
                "W&B cannot be reached (%s): this run is logged offline, and `wandb sync` uploads"
                " it",
                reason,
            )
            # W&B reads its mode when it is first set up; `wandb_finished` restores the variable.
            wandb.teardown()
            os.environ["WANDB_MODE"] = "offline"
            _ = logger.experiment


def prepare_wandb(options: DictConfig) -> None:
    """Silence a W&B run that is offline, and give each cell of a sweep a run of its own.

    ``WANDB_RUN_ID``, which W&B's agents and launchers set, names one run: cells that continued it
    would be uploaded as one. A single run keeps it.
    """
    own: dict[str, Any] = {}
    is_told = {"WANDB_SILENT", "WANDB_QUIET"} & os.environ.keys() or options.get("settings")
    if _is_offline(options) and not is_told:
        # W&B prints 35 lines around the result, of which one is of use: the one of `wandb_hint`.
        own["settings"] = {"silent": True}
    if sweep_name() is not None and "WANDB_RUN_ID" in os.environ and not options.get("id"):
        own["id"] = secrets.token_hex(4)
    with open_dict(options):
        options.update(own)


def wandb_hint(config: DictConfig) -> str | None:
    """Return how to upload an offline run; `None` if there is none, or W&B says it itself."""
    options = config.logger.get("wandb")
    if options is None or (options.get("settings") or {}).get("silent") is not True:
        return None
    # The last run is that of this process.
    runs = sorted(Path(options.get("save_dir") or ".", "wandb").glob("offline-run-*"))
    if not runs:
        return None
    return f"W&B is offline: {shlex.join(['wandb', 'sync', str(runs[-1])])} uploads this run"


def _is_offline(options: DictConfig) -> bool:
    return bool(options.get("offline")) or os.environ.get("WANDB_MODE") == "offline"


def resume_in_wandb(options: DictConfig, output_dir: Path) -> None:
    """Resume the last W&B run of an output folder, ``wandb/run-<time>-<id>``."""
    # W&B ignores ``resume`` for offline runs: two runs would get the same id.
    runs = sorted(Path(output_dir, "wandb").glob("run-*-*"))
    if runs and not options.get("offline") and not options.get("id"):
        with open_dict(options):
            options.id = runs[-1].name.rpartition("-")[2]


def read_csv_columns(loggers: Iterable[Any]) -> None:
    """Set the columns of CSV loggers from their files, which spawned processes may have written."""
    for logger in loggers:
        if is_a(logger, "CSVLogger") and (path := Path(logger.log_dir, "metrics.csv")).exists():
            with path.open(newline="") as file:
                logger.experiment.metrics_keys = next(csv.reader(file), [])


def log_plans(loggers: Iterable[Any], plans: Mapping[str, Plan]) -> None:
    """Log a table of each regularizer's ties to W&B."""
    columns = ["regularizer", "tie", "members", "shape", "parameters", "saved if shared"]
    rows = []
    for name, plan in plans.items():
        for tie in plan.ties:
            members, shape = shortened(tie.members, " = "), "×".join(map(str, tie.shape))
            rows.append([name, tie.name, members, shape, tie.parameters, tie.saved])
    for logger in loggers:
        if is_a(logger, "WandbLogger") and rows:
            logger.log_table("ties", columns, rows)


def log_result(loggers: Iterable[Any], numbers: Mapping[str, float]) -> None:
    """Log a table of final metrics to W&B."""
    rows = [[name, value] for name, value in numbers.items()]
    for logger in loggers:
        if is_a(logger, "WandbLogger"):
            logger.log_table("result", ["metric", "value"], rows)


def is_first_rank() -> bool:
    """Whether this process writes files and prints."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


@contextmanager
def wandb_finished() -> Iterator[None]:
    """Finish the W&B run at the end, as failed if an exception was raised."""
    # Otherwise the next run of this process would continue it, and inherit ``WANDB_MODE``, which a
    # logger's ``offline=True`` sets for the whole process.
    mode = os.environ.get("WANDB_MODE")
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            try:
                wandb.finish(exit_code=exit_code)
            except Exception as error:
                # The run itself is done, and its result is written.
                log.warning("W&B did not finish: %s", error)
        os.environ.pop("WANDB_MODE", None)
        if mode is not None:
            os.environ["WANDB_MODE"] = mode
