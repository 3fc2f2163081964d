"""Run the task of a cell such that its exceptions are logged and do not stop the sweep."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from lit_share.lab.errors import UserError, one_line
from lit_share.lab.sweeps._end_with import EndWith

log = logging.getLogger(__name__)


class CellFailed(Exception):  # noqa: N818 - it is what happened to a cell
    """Raised in place of a cell's exception, with its text."""


class Contained:
    """Logs the exceptions of a task, and raises them as `CellFailed`.

    Args:
        task: The task of each cell.
    """

    # Launchers with several processes pickle exceptions, and not every exception can be pickled.
    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        self.task = task
        self.end_with_sweep = EndWith(os.getpid())

    def __call__(self, config: DictConfig) -> Any:
        """Return the task's result, or raise `CellFailed`."""
        if os.getppid() == self.end_with_sweep.parent:
            self.end_with_sweep()
        try:
            return self.task(config)
        # The traceback of a mistake in a config would hide the message.
        except UserError as error:
            log.error("This cell of the sweep failed: %s", error)
            raise CellFailed(str(error)) from None
        except Exception as error:
            log.exception("This cell of the sweep failed.")
            raise CellFailed(one_line(error)) from None
