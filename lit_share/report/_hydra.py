"""The comparison at the end of a Hydra multirun."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lit_share.report._print import print_comparison

log = logging.getLogger(__name__)


class CompareRuns(Callback):
    """Prints the comparison of a multirun's runs, and writes it to `comparison.csv` in the sweep's directory.

    It never raises: what goes wrong here is logged. Hydra does not call it after a multirun that ended with an
    exception; `python -m lit_share.report DIR` prints the same table then.

    Args:
        metric: Name of the test metric; by default the objective's name with `test` in place of `val`.

    Example:
        In a config:

        .. code-block:: yaml

            hydra:
              callbacks:
                compare:
                  _target_: lit_share.report.CompareRuns
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
            print_comparison([directory], self.metric).to_csv(directory / "comparison.csv")
        except Exception as error:
            log.warning("The runs were not compared: %s", error)
