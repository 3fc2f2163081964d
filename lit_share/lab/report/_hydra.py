"""Compare runs at the end of a Hydra multirun."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lit_share.lab.report._print import print_comparison
from lit_share.lab.report._write import write_report
from lit_share.text import visible

log = logging.getLogger(__name__)


class CompareRuns(Callback):
    """Prints the comparison of a multirun's runs, and writes it to the sweep's directory.

    The files are `report.html`, `results.csv` and `results.json`. Errors are logged, not raised.
    After a multirun that raised an exception, Hydra does not call it: use `lit-share compare DIR`.

    Args:
        metric: Name of the test metric; by default the objective's name with `test` in place of
            `val`.

    Example:
        In a config:

        .. code-block:: yaml

            hydra:
              callbacks:
                compare:
                  _target_: lit_share.lab.report.CompareRuns
                  metric: b/test/acc
    """

    def __init__(self, metric: str | None = None) -> None:
        self.metric = metric

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Compare the runs below `hydra.sweep.dir`.

        Args:
            config: The multirun's config, with its `hydra` node.
            kwargs: Not used.
        """
        try:
            directory = Path(config.hydra.sweep.dir)
            written = write_report(print_comparison([directory], self.metric), directory)
            print(f"written: {visible(', '.join(map(str, written)))}")
        # The runs have succeeded by now, so the multirun must not fail.
        except Exception as error:
            log.warning("The runs were not compared: %s", error)
