"""What pruning saves of a sweep, and what it changes: `python -m benchmarks.pruned_search`.

``experiment=same_classes`` runs four times in ``--out``, for ten seeds: as the grid that it is, and
as a search of the same strengths, where unpromising cells stop early; both also with early stopping
after five epochs without improvement. The tables are compared row by row: accuracies on test data,
and their differences from the grid's over common seeds. The epochs are those of all cells, pruned
or not. Repeat the command to resume it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._tables import differences, mean_of, print_head, print_row
from lit_share.lab.report import Row, compare
from lit_share.lab.results import Result, read_results

ROOT = Path(__file__).parents[1]
SEEDS = 10
EARLY = (
    "callbacks=early_stopping",
    "callbacks.progress=null",
    "callbacks.early_stopping.patience=5",
)
SEARCH = ("hydra/sweeper=optuna",)
SWEEPS: dict[str, tuple[str, ...]] = {
    "grid": (),
    "pruned": SEARCH,
    "grid, early stopping": EARLY,
    "pruned, early stopping": (*SEARCH, *EARLY),
}


def run(overrides: Sequence[str], directory: Path) -> list[Result]:
    """Run or resume a sweep, one cell after the other, and read its results."""
    common = ("experiment=same_classes", "~callbacks.sharing", "hydra/launcher=basic")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *common, *overrides]
    subprocess.run([*command, f"hydra.sweep.dir={directory}"], check=True, stdout=sys.stderr)
    return read_results([directory])


def folder(name: str) -> str:
    """Return a name for a sweep's folder, without what Hydra would read as a list."""
    return name.replace(",", "").replace(" ", "_")


def epochs(results: Sequence[Result]) -> int:
    """Count the epochs that all cells have trained."""
    return sum(result.epochs or 0 for result in results)


def key(row: Row) -> tuple[str | None, str, str]:
    """Return what a row is about; early stopping makes no other row."""
    domain = next(o for o in row.runs[0].overrides if o.startswith("data.domain="))
    return row.ties, domain.partition("=")[2], row.strategy


def scores(row: Row, metric: str) -> dict[int, float]:
    """Return the test metric of each seed's chosen run."""
    return {run.seed: run.test[metric] for run in row.runs}


def main() -> None:
    """Run the sweeps, and print their epochs and rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweeps")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", nargs="*", choices=SWEEPS, default=[*SWEEPS])
    options = parser.parse_args()
    found = {
        name: run([f"seed=range(0,{options.seeds})", *SWEEPS[name]], options.out / folder(name))
        for name in options.only
    }
    most = max(map(epochs, found.values()))
    print_head("sweep", "cells", "pruned", "epochs", "of the most")
    for name, results in found.items():
        pruned = sum(result.status == "pruned" for result in results)
        count = epochs(results)
        print_row([name, len(results), pruned, f"{count:,}", f"{100 * count / most:.0f} %"])
    print()
    tables = {name: compare(results) for name, results in found.items()}
    first, *others = tables
    metric = tables[first].metric
    rows = {name: {key(row): row for row in table.rows} for name, table in tables.items()}
    print_head("ties", "B sees", "strategy", first, *(f"{name} − {first}" for name in others))
    for which, row in rows[first].items():
        own = scores(row, metric)
        cells = []
        for name in others:
            theirs = scores(rows[name][which], metric)
            cells += differences([theirs[s] for s in own], [own[s] for s in own])
        print_row([*which, mean_of(own.values()), *cells])


if __name__ == "__main__":
    main()
