"""Print results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_share.lab.report import estimate


def print_head(*cells: str) -> None:
    """Print the first rows of a Markdown table."""
    print_row(cells)
    print("|---" * len(cells) + "|")


def print_row(cells: Iterable[object]) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def mean_of(values: Iterable[float]) -> str:
    """Return the mean over seeds with its interval, for a cell."""
    return str(estimate(list(values)))


def differences(own: Sequence[float], *baselines: Sequence[float]) -> list[str]:
    """Return the mean difference from each baseline of the same seeds, for cells."""
    return [mean_of(a - b for a, b in zip(own, other, strict=True)) for other in baselines]
