"""The cells of a sweep: which folder is whose, which of them are done, and how far the whole of it is.

A cell is known by its overrides. `cells.json` in the sweep's directory says which folder belongs to which cell, so a
sweep that is started again in the same directory knows what it has done already.

The sweeper imports this module whenever Hydra starts: nothing heavy may be imported here.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from threading import enumerate as enumerate_threads
from types import TracebackType
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf

from lit_share.lab.app._errors import Told, one_line

log = logging.getLogger(__name__)

Cell: TypeAlias = tuple[str, ...]

CELLS_FILE = "cells.json"
RESULT_FILE = "result.json"
CHECKPOINTS = "checkpoints"


def fingerprint(config: DictConfig) -> str:
    """What a composed config says, in a few letters; how it is logged does not matter.

    Args:
        config: Of one cell; its `hydra` node does not matter either.

    Returns:
        Equal texts for equal configs.

    Example:
        >>> one, two = OmegaConf.create({"seed": 0, "logger": {}}), OmegaConf.create({"logger": None, "seed": 0})
        >>> fingerprint(one) == fingerprint(two)
        True
    """
    content: Any = OmegaConf.to_container(config, enum_to_str=True)
    content = {key: value for key, value in content.items() if key not in ("hydra", "logger")}
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def settle(directory: Path, cells: Mapping[Cell, str]) -> dict[Cell, str]:
    """Give every cell a folder below the sweep's directory, and write down which is whose.

    A cell that has a folder keeps it. What it left there stays if the cell has finished or was cut off; if it failed,
    or if its config was another one then, its result and its checkpoints are removed, because it has to run again.
    Folders of cells that are not asked for any more stay as they are, and are marked, as reports tell them apart.

    Args:
        directory: Of the sweep, which exists.
        cells: The fingerprint of each cell's config.

    Returns:
        The name of each cell's folder.
    """
    file = directory / CELLS_FILE
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise ValueError(
            f"{file} does not say any more which cell is whose ({error}): name another hydra.sweep.dir"
        ) from None
    owners = {_identity(entry["overrides"]): folder for folder, entry in known.items()}
    taken = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    free = 1 + max([*taken, *map(int, known)], default=-1)
    folders = {}
    for cell, config in cells.items():
        folder = owners.get(_identity(cell))
        if folder is None:
            folder, free = str(free), free + 1
        elif known[folder]["config"] != config or status(directory / folder) == "failed":
            shutil.rmtree(directory / folder / CHECKPOINTS, ignore_errors=True)
            (directory / folder / RESULT_FILE).unlink(missing_ok=True)
        folders[cell] = folder
        known[folder] = {"overrides": list(cell), "config": config}
    for folder, entry in known.items():
        entry["earlier"] = folder not in folders.values()
    write_json(file, known)
    return folders


def status(folder: Path) -> str | None:
    """How the run in a folder ended: `"finished"`, `"failed"`, or `None` if it has not."""
    file = folder / RESULT_FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["status"])
    except (ValueError, TypeError, KeyError):
        return None  # no run has written this


def checkpoint_to_go_on_from(folder: Path) -> str | None:
    """The last checkpoint of a run that was cut off, or `None` if it has ended or never came so far."""
    last = folder / CHECKPOINTS / "last.ckpt"
    return str(last) if last.exists() and status(folder) is None else None


def write_json(path: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all, whenever the process is killed or the disk is full."""
    unfinished = path.with_name(f"{path.name}.tmp")
    text = json.dumps(content, indent=2) + "\n"
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def group_of(directory: Path) -> str:
    """The name of a sweep in this directory, by which its runs are grouped.

    Example:
        >>> group_of(Path("/data/multirun/2025-03-01/12-30-00"))
        '2025-03-01-12-30-00'
    """
    return "-".join(
        part for part in directory.absolute().parts[-2:] if part != directory.absolute().anchor
    )


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
        except Told as error:
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


class Progress:
    """Prints a line whenever cells of a sweep have ended, wherever they run.

    Counts `result.json` files, once a second and in a thread, because launchers come back only after all cells.

    Args:
        directory: Of the sweep.
        folders: Names of all its cells' folders.
        seconds: Between two looks.
    """

    def __init__(self, directory: Path, folders: Collection[str], seconds: float = 1.0) -> None:
        self.waiting = {directory / folder for folder in folders}
        self.total, self.seconds = len(folders), seconds
        self.failed = 0
        self._look()
        self.before, self.begin = self.done, time.monotonic()
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    @property
    def done(self) -> int:
        """How many cells have ended."""
        return self.total - len(self.waiting)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tell()

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = ""
        if self.waiting and self.done > self.before:
            each = (time.monotonic() - self.begin) / (self.done - self.before)
            left = f", about {_duration(each * len(self.waiting))} left"
        return f"{self.done}/{self.total} cells done{failed}{left}"

    def _watch(self) -> None:
        while not self._stop.wait(self.seconds):
            self._tell()

    def _tell(self) -> None:
        if self._look():
            print(self, flush=True)

    def _look(self) -> bool:
        ended = {folder: how for folder in self.waiting if (how := status(folder)) is not None}
        self.waiting -= set(ended)
        self.failed += sum(how == "failed" for how in ended.values())
        return bool(ended)


def _identity(cell: Collection[str]) -> Cell:
    """The overrides that make a cell what it is, in any order."""
    return tuple(sorted(override for override in cell if not override.startswith("logger")))


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 1
        else f"{minutes:.0f} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )
