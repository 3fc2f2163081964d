"""Read the `result.json` that every run writes to its output directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lit_share.files import open_regular
from lit_share.lab.results._result import RESULT_FILE, Result

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def read_results(directories: Iterable[str | Path]) -> list[Result]:
    """Read every `result.json` below directories.

    Args:
        directories: Output directories of runs or multiruns, or any directories above them.

    Returns:
        The results in the order of their paths; a file found twice is read once.

    Raises:
        FileNotFoundError: If a directory does not exist.
        ValueError: If a `result.json` is broken, or was not written by a run of this package.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> head = '{"schema": 1, "status": "failed", "strategy": "l2", "seed": 0'
        >>> text = f'{head}, "objective": "a", "mode": "min"}}'
        >>> with TemporaryDirectory() as directory:
        ...     _ = (Path(directory) / "result.json").write_text(text)
        ...     [result.strategy for result in read_results([directory])]
        ['l2']
    """
    paths = _find(RESULT_FILE, directories)
    earlier = {sweep: _earlier_cells(sweep) for sweep in {path.parent.parent for path in paths}}
    return [_read(path, path.parent.name in earlier[path.parent.parent]) for path in paths]


def unfinished_runs(directories: Iterable[str | Path]) -> list[Path]:
    """Find the output directories of Hydra runs that are running or were killed, recursively.

    Raises:
        FileNotFoundError: If a directory does not exist.
    """
    # Hydra writes its folder when a run starts, and the run its result when it ends.
    runs = [path.parent for path in _find(".hydra", directories)]
    return [run for run in runs if not (run / RESULT_FILE).exists()]


def _find(name: str, directories: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise FileNotFoundError(f"no directory {directory}")
        # Directories may overlap, or be links to each other.
        found |= {path.resolve(): path for path in directory.rglob(name)}
    return sorted(found.values())


def _earlier_cells(directory: Path) -> set[str]:
    """Return the folders of cells that ``cells.json`` has, but the sweep's last command had not."""
    try:
        cells = json.loads((directory / "cells.json").read_text(encoding="utf-8"))
        return {folder for folder, cell in cells.items() if cell.get("earlier") is True}
    # Runs outside of sweeps have no such file, or another program's.
    except (OSError, ValueError, AttributeError):
        return set()


@cache
def _adapter() -> TypeAdapter[Result]:
    """Return the checks of a file's content, which take longer to make than a file to read."""
    # Hydra's plugins import this module at each start, and read nothing.
    from pydantic import TypeAdapter

    return TypeAdapter(Result)


def _read(path: Path, earlier: bool) -> Result:
    from pydantic import ValidationError

    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
        return _adapter().validate_python({**content, "path": path, "earlier": earlier})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    # Brackets may be nested deeper than the parser goes.
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(
        f"{path} is not the result of a run ({reason}): remove it, or name directories without it"
    )
