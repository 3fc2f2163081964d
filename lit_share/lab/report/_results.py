"""Reading the `result.json` that every run leaves in its output directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True)
class Result:
    """What one run has found out.

    Attributes:
        path: The `result.json` it was read from.
        schema: Version of the file's format.
        status: How the run ended.
        strategy: The regularizers' names joined by `+`, or `none`.
        seed: Of the data's split, the initial weights and the order of batches.
        objective: Name of the validation metric by which runs are chosen.
        mode: Whether the objective is to be large or small.
        error: What ended a failed run.
        data: The config chosen for the group of this name; so with `ties` and `model`.
        ties: See `data`.
        model: See `data`.
        strength: Of the regularizers, if they have one.
        validation: Metrics on validation data.
        test: Metrics on test data.
        sharing: Distance, numbers of parameters and the like.
        seconds: How long training took.
        overrides: What was written on the command line.
        tune: Keys of overrides that are chosen on validation data, and not compared.
        distances: How far the members of each tie were apart at the start and after every epoch, by the tie's name.
        tied: The fraction of each tie's positions that ended up exactly equal.
        training_bytes: Parameters, gradients and optimizer state.
        earlier: Whether it is a cell of a sweep that the last command in the sweep's directory did not ask for.
    """

    path: Path
    schema: Literal[1]
    status: Literal["finished", "failed"]
    strategy: str
    seed: int
    objective: str
    mode: Literal["min", "max"]
    error: str | None = None
    data: str | None = None
    ties: str | None = None
    model: str | None = None
    strength: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    sharing: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    overrides: list[str] = field(default_factory=list)
    tune: list[str] = field(default_factory=list)
    distances: dict[str, list[float]] = field(default_factory=dict)
    tied: dict[str, float] = field(default_factory=dict)
    training_bytes: int | None = None
    earlier: bool = False

    @property
    def failure(self) -> str | None:
        """Why the run cannot be compared, or `None`: it failed, or its objective is not a finite number."""
        why = self._why_it_failed()
        return f"in an earlier command: {why}" if why and self.earlier else why

    def _why_it_failed(self) -> str | None:
        if self.status == "failed":
            return self.error or "failed"
        value = self.validation.get(self.objective)
        if value is None:
            return f"no {self.objective} among the validation metrics: {', '.join(self.validation) or 'there are none'}"
        return None if math.isfinite(value) else f"{self.objective} is {value}"


def read_results(directories: Iterable[str | Path]) -> list[Result]:
    """Read every `result.json` below some directories.

    Args:
        directories: Output directories of runs or multiruns, or any directories above them.

    Returns:
        The results in the order of their paths; a file found twice is read once.

    Raises:
        FileNotFoundError: If a directory does not exist.
        ValueError: If a `result.json` is broken, or was not written by a run of this package.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> text = '{"schema": 1, "status": "failed", "strategy": "l2", "seed": 0, "objective": "a", "mode": "min"}'
        >>> with TemporaryDirectory() as directory:
        ...     _ = (Path(directory) / "result.json").write_text(text)
        ...     [result.strategy for result in read_results([directory])]
        ['l2']
    """
    paths = _find("result.json", directories)
    earlier = {sweep: _earlier_cells(sweep) for sweep in {path.parent.parent for path in paths}}
    return [_read(path, path.parent.name in earlier[path.parent.parent]) for path in paths]


def unfinished_runs(directories: Iterable[str | Path]) -> list[Path]:
    """Find the Hydra runs that left no `result.json`: they are under way, or were killed.

    Args:
        directories: Where to look, recursively.

    Returns:
        The output directories of these runs.

    Raises:
        FileNotFoundError: If a directory does not exist.
    """
    runs = [path.parent for path in _find(".hydra", directories)]
    return [run for run in runs if not (run / "result.json").exists()]


def _find(name: str, directories: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise FileNotFoundError(f"no directory {directory}")
        found |= {path.resolve(): path for path in directory.rglob(name)}
    return sorted(found.values())


def _earlier_cells(directory: Path) -> set[str]:
    """The folders of cells that the last command in a sweep's directory did not ask for."""
    try:
        cells = json.loads((directory / "cells.json").read_text(encoding="utf-8"))
        return {folder for folder, cell in cells.items() if cell.get("earlier") is True}
    except (OSError, ValueError, AttributeError):  # there is none, or it is not a sweep's
        return set()


def _read(path: Path, earlier: bool) -> Result:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
        return TypeAdapter(Result).validate_python({**content, "path": path, "earlier": earlier})
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise ValueError(
        f"{path} is not the result of a run ({reason}): remove it, or name directories without it"
    )
