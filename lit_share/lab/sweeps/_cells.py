"""Assign a folder to each cell of a sweep, and read the status of cells.

A cell is known by its overrides. `cells.json` in the sweep's directory maps folders to cells, so
that a sweep can be resumed in the same directory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias

from omegaconf import DictConfig, OmegaConf

from lit_share.lab.results import RESULT_FILE, write_json

Cell: TypeAlias = tuple[str, ...]

CELLS_FILE = "cells.json"
CHECKPOINTS = "checkpoints"
_NO_NUMBERS = ("hydra", "logger", "dry_run")

State: TypeAlias = Literal["finished", "pruned", "interrupted", "failed", "changed", "new", "wrong"]


def fingerprint(config: DictConfig) -> str:
    """Hash a cell's composed config to 16 characters.

    The nodes `hydra`, `logger` and `dry_run`, which change no numbers, are left out.

    Example:
        >>> logged = OmegaConf.create({"logger": {}, "seed": 0})
        >>> fingerprint(logged) == fingerprint(OmegaConf.create({"seed": 0, "logger": None}))
        True
    """
    content: Any = OmegaConf.to_container(config, enum_to_str=True)
    content = {key: value for key, value in content.items() if key not in _NO_NUMBERS}
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def settle(
    directory: Path,
    cells: Mapping[Cell, str],
    trials: Mapping[Cell, Mapping[str, Any]] | None = None,
    ran: Collection[Cell] = (),
    failed: Collection[Cell] = (),
) -> dict[Cell, str]:
    """Assign each cell a folder below the sweep's directory, and write the mapping to a file.

    A cell keeps its folder, with result and checkpoints if it has finished or was interrupted. They
    are removed if it failed or if its config has changed, because it must run again. A cell that
    was pruned is resumed if it is no trial any more. Folders of other cells are
    unchanged, but marked for reports.

    Args:
        directory: The sweep's directory, which exists.
        cells: The fingerprint of each cell's config.
        trials: For the cells of a search or a race, what `cells.json` says of each besides: the
            number of its "trial", for instance.
        ran: Cells that this command has run; those that failed keep their result.
        failed: Cells that failed, whatever their result says.

    Returns:
        The name of each cell's folder.
    """
    known = known_cells(directory)
    owners = _owners(known)
    # Folders that the file does not mention may be of another sweep: they are not used again.
    taken = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    free = 1 + max([*taken, *map(int, known)], default=-1)
    folders = {}
    for cell, config in cells.items():
        folder, own = owners.get(_identity(cell)), (trials or {}).get(cell, {})
        if folder is None:
            folder, free = str(free), free + 1
        elif known[folder]["config"] != config or (
            (cell in failed or status(directory / folder) == "failed") and cell not in ran
        ):
            shutil.rmtree(directory / folder / CHECKPOINTS, ignore_errors=True)
            (directory / folder / RESULT_FILE).unlink(missing_ok=True)
        elif "trial" not in own and status(directory / folder) == "pruned":
            (directory / folder / RESULT_FILE).unlink()
        folders[cell] = folder
        known[folder] = {"overrides": list(cell), "config": config, **own}
    for folder, entry in known.items():
        entry["earlier"] = folder not in folders.values()
    write_json(directory / CELLS_FILE, known)
    return folders


def known_cells(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the cells of a sweep's directory by their folders; `{}` if it has none.

    Raises:
        ValueError: If the file is damaged.
    """
    file = directory / CELLS_FILE
    try:
        if file.exists():
            known: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
            return known
    except ValueError as error:
        raise ValueError(
            f"{file} does not say any more which cell is whose ({error}): "
            "name another hydra.sweep.dir"
        ) from None
    return {}


def states(
    directory: Path, cells: Mapping[Cell, str | None]
) -> dict[Cell, tuple[State, Path | None]]:
    """Return each cell's state and folder, if it has one, without changing anything.

    Args:
        directory: The sweep's directory, which need not exist.
        cells: The fingerprint of each cell's config, or `None` if it cannot be composed.
    """
    known = known_cells(directory)
    owners = _owners(known)
    found: dict[Cell, tuple[State, Path | None]] = {}
    for cell, config in cells.items():
        if config is None:
            found[cell] = "wrong", None
            continue
        folder = owners.get(_identity(cell))
        if folder is None:
            found[cell] = "new", None
            continue
        path = directory / folder
        found[cell] = _state(path, known[folder]["config"] != config), path
    return found


def _state(folder: Path, has_changed: bool) -> State:
    if has_changed:
        return "changed"
    ends: dict[str | None, State] = {
        "finished": "finished",
        "pruned": "pruned",
        "failed": "failed",
    }
    state = ends.get(status(folder))
    # A folder without a result is that of a cell that was cut off, unless it was removed.
    if state is None:
        state = "interrupted" if folder.exists() else "new"
    return state


def status(folder: Path) -> str | None:
    """Return how the run in a folder ended, as its result says; `None` if it has not."""
    file = folder / RESULT_FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["status"])
    # Such a file was not written by a run, so the cell runs and replaces it.
    except (ValueError, TypeError, KeyError):
        return None


def seconds_of(folder: Path) -> float | None:
    """Return how long a finished cell took; `None` if that is unknown.

    That is its training, or the time from Hydra's start of the cell to its result, which includes
    tests; the first start of an interrupted cell is not known.
    """
    try:
        trained = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["seconds"]
        started = (folder / ".hydra" / "overrides.yaml").stat().st_mtime
        return max(float(trained), (folder / RESULT_FILE).stat().st_mtime - started)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def checkpoint_to_resume(folder: Path) -> str | None:
    """Return the last checkpoint of an interrupted run; `None` if it has ended or has none."""
    last = folder / CHECKPOINTS / "last.ckpt"
    if last.exists() and status(folder) is None:
        return str(last)
    return None


def group_of(directory: Path) -> str:
    """Return the name of the sweep in a directory, by which W&B groups its runs.

    Example:
        >>> group_of(Path("/data/multirun/2025-03-01/12-30-00"))
        '2025-03-01-12-30-00'
    """
    path = directory.absolute()
    # A directory of the root folder has a single name.
    return "-".join(part for part in path.parts[-2:] if part != path.anchor)


def _owners(known: Mapping[str, Mapping[str, Any]]) -> dict[Cell, str]:
    return {_identity(entry["overrides"]): folder for folder, entry in known.items()}


def _identity(cell: Collection[str]) -> Cell:
    # Neither the order of overrides nor logging changes a cell's numbers.
    return tuple(sorted(override for override in cell if not override.startswith("logger")))
