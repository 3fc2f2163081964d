"""Printing the comparison of the runs in some directories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lit_share.report._compare import compare
from lit_share.report._comparison import Comparison
from lit_share.report._results import read_results, unfinished_runs


def print_comparison(directories: Iterable[str | Path], metric: str | None = None) -> Comparison:
    """Read the results below some directories, compare them and print the table.

    Args:
        directories: Output directories of runs or multiruns, or any directories above them.
        metric: See `compare`.

    Returns:
        What was printed.

    Raises:
        FileNotFoundError: If a directory does not exist, or none holds a result.
        ValueError: If a result is broken, or if the results cannot be compared.
    """
    directories = list(directories)
    results = read_results(directories)
    if not results:
        raise FileNotFoundError(f"no result.json below {', '.join(map(str, directories))}")
    comparison = compare(results, metric)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # in a log file, instead of 80
    if unfinished := unfinished_runs(directories):
        console.print(Text(f"{len(unfinished)} without a result.json: {', '.join(map(str, unfinished))}"))
    console.print(comparison)
    return comparison
