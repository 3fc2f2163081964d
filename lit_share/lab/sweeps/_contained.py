"""Run the task of a cell such that its exceptions are logged and do not stop the sweep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any

from omegaconf import DictConfig

from lit_share.lab.errors import UserError, one_line

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
        self.sweeper = os.getpid()

    def __call__(self, config: DictConfig) -> Any:
        """Return the task's result, or raise `CellFailed`."""
        _end_with(self.sweeper)
        try:
            return self.task(config)
        # The traceback of a mistake in a config would hide the message.
        except UserError as error:
            log.error("This cell of the sweep failed: %s", error)
            raise CellFailed(str(error)) from None
        except Exception as error:
            log.exception("This cell of the sweep failed.")
            raise CellFailed(one_line(error)) from None


def _end_with(parent: int) -> None:
    """Start a thread, once, that exits this process when its parent, process `parent`, ends."""
    # Otherwise joblib's workers would outlive a sweep that is killed, and write to the same folders
    # as the resumed sweep. A worker runs several cells, but needs a single thread.
    name = "end with the sweep"
    if os.getppid() != parent or any(thread.name == name for thread in enumerate_threads()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    Thread(target=watch, name=name, daemon=True).start()
