"""Write a comparison as a page for people and as two files for programs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lit_share.files import beside, write_text
from lit_share.lab.report._advice import advise
from lit_share.lab.report._comparison import Comparison, Scores
from lit_share.lab.report._page import page
from lit_share.lab.report._settings import setting_of
from lit_share.lab.results import Result
from lit_share.text import encodable

PAGE, CSV, JSON = "report.html", "results.csv", "results.json"


def write_report(
    comparison: Comparison, directory: str | Path, title: str | None = None
) -> list[Path]:
    """Write ``report.html``, ``results.csv`` and ``results.json``.

    Args:
        comparison: The comparison.
        directory: The folder of the files, which is created if it does not exist.
        title: The page's title; by default it has the folder's name.

    Returns:
        The files, the page first.

    Raises:
        OSError: If a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if title is None:
        title = "Comparison of strategies"
        # The root folder has no name.
        if name := directory.resolve().name:
            title += f": {name}"
    files = [directory / file for file in (PAGE, CSV, JSON)]
    # If one of them cannot be made or written, all files stay what they were.
    with beside(files[0]) as html, beside(files[1]) as table, beside(files[2]) as content:
        write_text(html, encodable(page(comparison, directory, title)))
        comparison.to_csv(table)
        write_text(content, as_json(comparison, directory) + "\n")
    return files


def as_json(comparison: Comparison, directory: Path) -> str:
    """Return printable JSON of the rows and chosen runs, with paths relative to a directory."""
    content = _finite(_content(comparison, directory))
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    # Letters of all languages stay readable, but a terminal would obey control characters.
    unprintable = {c for c in text if not c.isprintable() and c != "\n"}
    return text.translate({ord(c): json.dumps(c)[1:-1] for c in unprintable})


def _content(comparison: Comparison, directory: Path) -> dict[str, Any]:
    rows = []
    for row, record in zip(comparison.rows, comparison.records(), strict=True):
        runs = [{**_run(run, directory), "score": run.test[comparison.metric]} for run in row.runs]
        scores = {name: _scores(own) for name, own in row.scores.items()}
        setting = setting_of(row.tried[0])
        rows.append({**record, "setting": setting, "metrics": scores, "runs": runs})
    advice = [{"setting": name, "sentences": lines} for name, lines in advise(comparison)]
    return {
        "schema": 1,
        "metric": comparison.metric,
        "objective": comparison.objective,
        "mode": comparison.mode,
        "baseline": comparison.baseline,
        "advice": advice,
        "rows": rows,
        "failures": [{**_run(run, directory), "error": run.failure} for run in comparison.failures],
    }


def _scores(scores: Scores) -> dict[str, float | None]:
    mean, difference = scores
    content: dict[str, float | None] = {}
    for name, found in (("", mean), ("difference_", difference)):
        if found is not None:
            own = {"mean": found.mean, "low": found.low, "high": found.high}
            content |= {f"{name}{key}": value for key, value in own.items()}
    return content


def _run(run: Result, directory: Path) -> dict[str, Any]:
    # Measurements are left out: the run's result.json has them.
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
    # JSON has no NaN and no infinity, so they become null.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
