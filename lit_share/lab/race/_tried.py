"""The outcome of a trial of a race, as its folder has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lit_share.lab.results import RESULT_FILE


@dataclass(frozen=True)
class Tried:
    """The outcome of a trial.

    Attributes:
        score: The best objective on validation data; `None` if the trial failed.
        layers: For each layer that was tied, the patterns that exclude it.
    """

    score: float | None
    layers: Mapping[str, list[str]] = field(default_factory=dict)


def tried_in(folder: Path) -> Tried | None:
    """Return the outcome of the trial in a folder; `None` if it has not ended."""
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if result["status"] == "failed":
            return Tried(None)
        # A trial has no other metrics, as it is neither validated nor tested after training.
        if result["status"] == "pruned":
            score = result["course"][-1]
        else:
            score = result["validation"][result["objective"]]
        # No number is better or worse than NaN.
        if not math.isfinite(score):
            return Tried(None)
        return Tried(score, result["layers"])
    # Such a file was not written by a trial, which runs and replaces it.
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
