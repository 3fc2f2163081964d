"""The cells of a sweep: which folder is whose, which of them are done, and how far the whole of it is.

A cell is known by its overrides. `cells.json` in the sweep's directory says which folder belongs to which cell, so a
sweep that is started again in the same directory knows what it has done already.

The sweeper imports this module whenever Hydra starts: nothing heavy may be imported here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from omegaconf import DictConfig, OmegaConf

from lit_share.lab.results import RESULT_FILE, write_json

Cell: TypeAlias = tuple[str, ...]

CELLS_FILE = "cells.json"
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


def checkpoint_to_resume(folder: Path) -> str | None:
    """The last checkpoint of a run that was cut off, or `None` if it has ended or never came so far."""
    last = folder / CHECKPOINTS / "last.ckpt"
    return str(last) if last.exists() and status(folder) is None else None


def group_of(directory: Path) -> str:
    """The name of a sweep in this directory, by which its runs are grouped.

    Example:
        >>> group_of(Path("/data/multirun/2025-03-01/12-30-00"))
        '2025-03-01-12-30-00'
    """
    return "-".join(
        part for part in directory.absolute().parts[-2:] if part != directory.absolute().anchor
    )


def _identity(cell: Collection[str]) -> Cell:
    """The overrides that make a cell what it is, in any order."""
    return tuple(sorted(override for override in cell if not override.startswith("logger")))
