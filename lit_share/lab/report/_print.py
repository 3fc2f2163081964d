"""Printing the comparison of the runs in some directories."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lit_share.lab.report._compare import compare
from lit_share.lab.report._comparison import Comparison
from lit_share.lab.results import read_results, unfinished_runs
from lit_share.text import visible


def print_comparison(
    directories: Iterable[str | Path],
    metric: str | None = None,
    baseline: str = "none",
    svg: str | Path | None = None,
    quiet: bool = False,
    tune: Collection[str] = (),
) -> Comparison:
    """Read the results below some directories, compare them and print the table.

    Args:
        directories: Output directories of runs or multiruns, or any directories above them.
        metric: See `compare`.
        baseline: See `compare`.
        svg: A file for a picture of the table.
        quiet: Print nothing.
        tune: See `compare`.

    Returns:
        What was printed.

    Raises:
        FileNotFoundError: If a directory does not exist, or none holds a result.
        ValueError: If a result is broken, or if the results cannot be compared.
    """
    directories = list(directories)
    results = read_results(directories)
    empty = [
        str(directory) for directory in directories if not any(Path(directory).rglob("result.json"))
    ]
    if empty:
        raise FileNotFoundError(f"no result.json below {', '.join(empty)}")
    comparison = compare(results, metric, baseline, tune)
    console = Console(quiet=quiet)
    if not console.is_terminal:
        console.width = 160  # in a log file, instead of 80
    if unfinished := unfinished_runs(directories):
        console.print(
            Text(
                visible(
                    f"{len(unfinished)} without a result.json: {', '.join(map(str, unfinished))}"
                )
            )
        )
    if earlier := [
        str(result.path.parent) for result in results if result.earlier and result.failure is None
    ]:
        shown = ", ".join(earlier[:3]) + (", …" if earlier[3:] else "")
        console.print(
            Text(visible(f"{len(earlier)} in the table are of an earlier command: {shown}"))
        )
    console.print(comparison)
    if svg is not None:
        picture = Console(record=True, width=100, file=StringIO())
        picture.print(comparison)
        drawn = picture.export_svg(title="lit-share compare")
        # Without the web fonts that would be loaded whenever the picture is looked at.
        Path(svg).write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))
    return comparison
