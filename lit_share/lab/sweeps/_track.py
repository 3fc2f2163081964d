"""Log the comparison of a sweep as a separate W&B run."""

from __future__ import annotations

import csv
import logging
import os
import secrets
import shlex
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lit_share.lab.sweeps._cells import group_of

log = logging.getLogger(__name__)


class TrackComparison(Callback):
    """Logs `results.csv` at the end of a multirun whose cells are logged to W&B, in their group.

    It must precede `CompareRuns` in `hydra.callbacks`, because Hydra calls the last callback first
    at the end of a multirun. Errors are logged, not raised.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Log the comparison below `hydra.sweep.dir`.

        Args:
            config: The multirun's config, with its `hydra` node.
            kwargs: Not used.
        """
        options = config.get("logger", {}).get("wandb")
        directory = Path(config.hydra.sweep.dir)
        file = directory / "results.csv"
        if options is None or not file.exists():
            return
        try:
            import wandb

            mode: Literal["online", "offline"] = "online"
            if options.get("offline"):
                mode = "offline"
            with file.open(newline="", encoding="utf-8") as lines:
                names, *rows = csv.reader(lines)
            table = wandb.Table(columns=[*names], data=[list(map(_number, row)) for row in rows])
            offline = mode == "offline" or os.environ.get("WANDB_MODE") == "offline"
            silent = offline and not {"WANDB_SILENT", "WANDB_QUIET"} & os.environ.keys()
            with wandb.init(
                # An id in the environment would make the comparison a part of another run.
                id=secrets.token_hex(4),
                settings={"silent": silent} if silent else None,
                project=options.get("project"),
                entity=options.get("entity"),
                group=options.get("group") or group_of(directory),
                job_type="comparison",
                name="comparison",
                dir=directory,
                mode=mode,
            ) as run:
                run.log({"comparison": table, "scores": wandb.plot.bar(table, "strategy", "mean")})
            if silent:
                folder = shlex.quote(str(directory))
                print(
                    f"W&B is offline: wandb sync {folder}/wandb/offline-run-*"
                    f" {folder}/*/wandb/offline-run-* uploads all runs"
                )
        # The cells have succeeded by now, so the multirun must not fail.
        except Exception as error:
            log.warning("The comparison was not logged to W&B: %s", error)


def _number(text: str) -> float | str | None:
    # An empty cell of the table is an undefined value.
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
