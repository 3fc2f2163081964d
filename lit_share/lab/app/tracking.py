"""What a run leaves with its trackers: W&B is finished in every case."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, open_dict

from lit_share.ties import Plan, shortened

log = logging.getLogger(__name__)


def begin_wandb(loggers: Iterable[Logger]) -> None:
    """Begin the runs of W&B loggers: offline where W&B cannot be reached, so that nobody waits or trains in vain.

    How long W&B is waited for is its own ``WANDB_INIT_TIMEOUT``, of 90 seconds.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger) or not is_first_rank():
            continue
        import wandb

        try:
            _ = logger.experiment
        except wandb.errors.CommError as error:
            reason = str(error).splitlines()[0]
            log.warning(
                "W&B cannot be reached (%s): this run is logged offline, and `wandb sync` uploads it",
                reason,
            )
            wandb.teardown()  # which knows its mode from its first start
            os.environ["WANDB_MODE"] = "offline"  # until `wandb_finished`
            _ = logger.experiment


def resume_in_wandb(options: DictConfig, output_dir: Path) -> None:
    """Let training that goes on in its folder go on in its W&B run, too, whose folder is ``wandb/run-<time>-<id>``.

    Not offline, where W&B ignores ``resume``, so that there would be two runs of one id.
    """
    runs = sorted(Path(output_dir, "wandb").glob("run-*-*"))
    if runs and not options.get("offline") and not options.get("id"):
        with open_dict(options):
            options.id = runs[-1].name.rpartition("-")[2]


def read_csv_columns(loggers: Iterable[Logger]) -> None:
    """Tell CSV loggers which columns their files have, which they do not know where spawned processes wrote them."""
    for logger in loggers:
        if isinstance(logger, CSVLogger) and (path := Path(logger.log_dir, "metrics.csv")).exists():
            with path.open(newline="") as file:
                logger.experiment.metrics_keys = next(csv.reader(file), [])


def log_plans(loggers: Iterable[Logger], plans: Mapping[str, Plan]) -> None:
    """Log to W&B which ties each regularizer has, as a table."""
    columns = ["regularizer", "tie", "members", "shape", "parameters", "saved if shared"]
    rows = [
        [
            name,
            tie.name,
            shortened(tie.members, " = "),
            "×".join(map(str, tie.shape)),
            tie.parameters,
            tie.saved,
        ]
        for name, plan in plans.items()
        for tie in plan.ties
    ]
    for logger in loggers:
        if isinstance(logger, WandbLogger) and rows:
            logger.log_table("ties", columns, rows)


def log_result(loggers: Iterable[Logger], numbers: Mapping[str, float]) -> None:
    """Log to W&B what came out in the end, as a table."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(
                "result", ["metric", "value"], [[name, value] for name, value in numbers.items()]
            )


def is_first_rank() -> bool:
    """Whether this process is the one that writes files and prints."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


@contextmanager
def wandb_finished() -> Iterator[None]:
    """Finish the W&B run at the end, as failed where an exception passes through.

    Otherwise the next run of this process would go on with it. The logger's ``offline=True`` sets ``WANDB_MODE``
    for the whole process, which is taken back too.
    """
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
            except Exception as error:  # of what is done and written down already
                log.warning("W&B did not finish: %s", error)
        os.environ.pop("WANDB_MODE", None)
        if mode is not None:
            os.environ["WANDB_MODE"] = mode
