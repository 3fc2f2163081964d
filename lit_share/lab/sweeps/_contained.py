"""The task of a cell, contained: its exceptions are logged, and do not stop the sweep."""

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
    """What is left of a cell's exception: its text, which every launcher can carry from one process to another."""


class Contained:
    """A task whose exceptions are logged where they happen, and travel as `CellFailed`.

    Launchers that run cells in other processes pickle what a cell raises, and not every exception can be.

    Args:
        task: What is run for each cell.
    """

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        self.task = task
        self.sweeper = os.getpid()

    def __call__(self, config: DictConfig) -> Any:
        """Run the task."""
        _end_with(self.sweeper)
        try:
            return self.task(config)
        except UserError as error:
            log.error("This cell of the sweep failed: %s", error)
            raise CellFailed(str(error)) from None
        except Exception as error:
            log.exception("This cell of the sweep failed.")
            raise CellFailed(one_line(error)) from None


def _end_with(parent: int) -> None:
    """End this process soon after its parent, if that is the sweep's.

    Otherwise joblib's workers would outlive a sweep that is killed, and write to the same folders as its next start.
    """
    name = "end with the sweep"
    if os.getppid() != parent or any(thread.name == name for thread in enumerate_threads()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    Thread(target=watch, name=name, daemon=True).start()
