"""Print the comparison of the runs in directories."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lit_share.files import write_text
from lit_share.lab.report._advice import advise
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
    """Read the results below directories, compare them and print the table and the advice.

    Args:
        directories: Output directories of runs or multiruns, or any directories above them.
        metric: See `compare`.
        baseline: See `compare`.
        svg: A file for a picture of the table.
        quiet: Whether to print nothing.
        tune: See `compare`.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: If a directory does not exist, or holds no result.
        ValueError: If a result is broken, or if the results cannot be compared.
    """
    directories = list(directories)
    results = read_results(directories)
    # A directory without results is a mistake, even if others have some.
    empty = [str(path) for path in directories if not any(Path(path).rglob("result.json"))]
    if empty:
        raise FileNotFoundError(f"no result.json below {', '.join(empty)}")
    comparison = compare(results, metric, baseline, tune)
    console = Console(quiet=quiet)
    # Log files are not limited to Rich's 80 columns.
    if not console.is_terminal:
        console.width = 160
    if unfinished := unfinished_runs(directories):
        shown = ", ".join(map(str, unfinished))
        console.print(Text(visible(f"{len(unfinished)} without a result.json: {shown}")))
    # A sweep that was started again keeps its earlier cells, which may surprise.
    finished = [result for result in results if result.failure is None]
    if earlier := [str(result.path.parent) for result in finished if result.earlier]:
        shown = ", ".join(earlier[:3]) + ", …" * (len(earlier) > 3)
        text = f"{len(earlier)} in the table are of an earlier command: {shown}"
        console.print(Text(visible(text)))
    console.print(comparison)
    for setting, sentences in advise(comparison):
        console.print()
        if setting:
            console.print(Text(visible(f"{setting}:")))
        for sentence in sentences:
            console.print(Text(visible(sentence)))
    if svg is not None:
        picture = Console(record=True, width=100, file=StringIO())
        picture.print(comparison)
        drawn = picture.export_svg(title="lit-share compare")
        # Rich's web fonts would make every viewer of the picture send a request.
        write_text(svg, re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))
    return comparison
