"""Writing a comparison down: a page for people, two files for programs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lit_share.lab.report._comparison import Comparison
from lit_share.lab.report._page import page
from lit_share.lab.report._settings import setting_of
from lit_share.lab.results import Result

PAGE, CSV, JSON = "report.html", "results.csv", "results.json"


def write_report(comparison: Comparison, directory: str | Path) -> list[Path]:
    """Write ``report.html``, ``results.csv`` and ``results.json``.

    Args:
        comparison: What is written.
        directory: Where to; it is made if it does not exist.

    Returns:
        The files, the page first.

    Raises:
        OSError: If a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    name = directory.resolve().name
    html = page(
        comparison,
        directory,
        f"Comparison of strategies: {name}" if name else "Comparison of strategies",
    )
    content = as_json(comparison, directory)
    (directory / PAGE).write_text(html, encoding="utf-8")
    comparison.to_csv(directory / CSV)
    (directory / JSON).write_text(content + "\n", encoding="utf-8")
    return [directory / file for file in (PAGE, CSV, JSON)]


def as_json(comparison: Comparison, directory: Path) -> str:
    """The rows and the chosen runs, with paths from a directory; it can be printed, whatever names are in it."""
    text = json.dumps(
        _finite(_content(comparison, directory)), indent=2, allow_nan=False, ensure_ascii=False
    )
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _content(comparison: Comparison, directory: Path) -> dict[str, Any]:
    rows = []
    for row, record in zip(comparison.rows, comparison.records(), strict=True):
        runs = [{**_run(run, directory), "score": run.test[comparison.metric]} for run in row.runs]
        rows.append({**record, "setting": setting_of(row.tried[0]), "runs": runs})
    return {
        "schema": 1,
        "metric": comparison.metric,
        "objective": comparison.objective,
        "mode": comparison.mode,
        "baseline": comparison.baseline,
        "rows": rows,
        "failures": [{**_run(run, directory), "error": run.failure} for run in comparison.failures],
    }


def _run(run: Result, directory: Path) -> dict[str, Any]:
    """A run in short; all that it has measured is in its own file."""
    return {
        "path": Path(os.path.relpath(run.path, directory)).as_posix(),
        "strategy": run.strategy,
        "seed": run.seed,
        "strength": run.strength,
        "objective": run.validation.get(run.objective),
        "overrides": run.overrides,
        "earlier": run.earlier,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
