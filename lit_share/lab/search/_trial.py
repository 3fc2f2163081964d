"""A trial of a study, as its cell's folder has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_share.lab.results import RESULT_FILE, Result
from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.sweeps import Cell


@dataclass(frozen=True)
class Trial:
    """A cell that has ended.

    Attributes:
        number: Its number in the study, from 0.
        overrides: The overrides of the cell.
        result: The result of its run.
    """

    number: int
    overrides: Cell
    result: Result

    def end(self) -> tuple[Any, float | None]:
        """Return Optuna's state of the trial, and its objective if it has finished."""
        states = load_optuna().trial.TrialState
        if self.result.status == "pruned":
            return states.PRUNED, None
        if self.result.failure is not None:
            return states.FAIL, None
        return states.COMPLETE, self.result.validation[self.result.objective]

    def frozen(self, distributions: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
        """Return Optuna's trial, with what its cell chose of some distributions."""
        state, value = self.end()
        course = dict(enumerate(self.result.course))
        return load_optuna().trial.create_trial(
            state=state,
            value=value,
            params=dict(params),
            distributions=dict(distributions),
            intermediate_values=course,
        )


def trials_of(
    directory: Path, cells: Mapping[str, Mapping[str, Any]], study: str, before: int
) -> list[Trial]:
    """Read the trials of a study that have ended, in the order of their numbers.

    Args:
        directory: The sweep's directory.
        cells: Its cells by their folders, as `known_cells` returns them.
        study: The study's name.
        before: The number of the first trial to leave out.
    """
    trials: dict[int, Trial] = {}
    for folder, cell in cells.items():
        number = cell.get("trial", before)
        # Later trials may be of an earlier command, which had more of them.
        if cell.get("study") != study or number >= before:
            continue
        result = _read(directory / folder / RESULT_FILE)
        if result is not None:
            trials[number] = Trial(number, tuple(cell["overrides"]), result)
    return [trials[number] for number in sorted(trials)]


def _read(path: Path) -> Result | None:
    # `read_results` checks each entry, which takes too long for thousands of trials.
    try:
        return Result(path=path, **json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
