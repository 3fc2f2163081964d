"""The measurements of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lit_share.lab.results._json import write_json

RESULT_FILE = "result.json"
# These depend on where the file is, not on the run.
_NOT_WRITTEN = {"path", "earlier"}


@dataclass(frozen=True)
class Result:
    """The result of one run, as `result.json` in its output directory holds it.

    Attributes:
        path: The `result.json`.
        schema: Version of the file's format.
        status: How the run ended; `pruned` if a search or a race stopped it early, without
            testing it.
        strategy: The name of the regularizers' config, or of several joined by `+`; or `none`.
        seed: Seed of the data's split, the initial weights and the order of batches.
        objective: Name of the validation metric by which runs are chosen.
        mode: Whether a large or a small objective is better.
        data: The config chosen for the group of this name; likewise `ties` and `model`.
        ties: See `data`.
        model: See `data`.
        tune: Keys of overrides that are chosen on validation data, and not compared.
        overrides: The overrides of the command line.
        error: The error that ended a failed run.
        strength: The strength of the regularizers, if they have one.
        validation: Metrics on validation data.
        test: Metrics on test data.
        sharing: The penalty, the distance between members, numbers of parameters and bytes.
        rows: For a run with a second phase, how the rows of each layer were tied.
        seconds: Duration of training.
        epochs: Number of epochs trained, in all phases; `None` in older results.
        course: In a search or a race, the best objective on validation data until each epoch.
        layers: In a race, for each layer that is tied, the patterns that exclude it from the ties.
        checkpoint: The checkpoint that was tested.
        tied: For each tie, the fraction of its elements that are exactly equal.
        clusters: For each tie, the number of each member's cluster by the member's name: members of
            a cluster are exactly equal.
        training_bytes: Bytes of parameters, gradients and optimizer state.
        distances: For each tie, the distance between its members before training and after every
            epoch.
        strengths: For each tie or layer whose strength was learned, the strength before training
            and after every epoch.
        strength_path: For a run that walked a path of strengths, the name of its "score", its
            "knots" with strength, score, standard error ("error"), distance, tied fractions and
            numbers of clusters, and the index of the "chosen" knot.
        better: Whether a large (`"max"`) or a small (`"min"`) metric is better, for metrics of
            torchmetrics that say so.
        started: When the run started, as ISO 8601 has it; `None` in older results.
        versions: Versions of Python, lit-share, torch and lightning.
        commit: The commit of the working directory, with `-dirty` if files have changed.
        earlier: Whether the last command in the sweep's directory no longer asked for this run.
    """

    path: Path
    schema: Literal[1]
    status: Literal["finished", "failed", "pruned"]
    strategy: str
    seed: int
    objective: str
    mode: Literal["min", "max"]
    data: str | None = None
    ties: str | None = None
    model: str | None = None
    tune: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    error: str | None = None
    strength: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    sharing: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] | None = None
    seconds: float | None = None
    epochs: int | None = None
    course: list[float] = field(default_factory=list)
    layers: dict[str, list[str]] = field(default_factory=dict)
    checkpoint: str | None = None
    tied: dict[str, float] = field(default_factory=dict)
    clusters: dict[str, dict[str, int]] = field(default_factory=dict)
    training_bytes: int | None = None
    distances: dict[str, list[float]] = field(default_factory=dict)
    strengths: dict[str, list[float]] = field(default_factory=dict)
    strength_path: dict[str, Any] | None = None
    better: dict[str, Literal["min", "max"]] = field(default_factory=dict)
    started: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    earlier: bool = False

    @property
    def file_bytes(self) -> float | None:
        """Bytes of the compact file, or in older results those of its numbers; may be unknown."""
        return self.sharing.get("file_bytes", self.sharing.get("bytes"))

    @property
    def failure(self) -> str | None:
        """Why the run cannot be compared, such as its error, or ``None``."""
        why = self._why_it_failed()
        if why is not None and self.earlier:
            return f"in an earlier command: {why}"
        return why

    def write(self) -> None:
        """Write the result to its `path`.

        Raises:
            OSError: If the file cannot be written.
        """
        names = [entry.name for entry in fields(self) if entry.name not in _NOT_WRITTEN]
        write_json(self.path, {name: getattr(self, name) for name in names})

    def _why_it_failed(self) -> str | None:
        if self.status == "failed":
            return self.error or "failed"
        if self.status == "pruned":
            return "pruned: a search or a race stopped it early"
        value = self.validation.get(self.objective)
        if value is None:
            known = ", ".join(self.validation) or "there are none"
            return f"no {self.objective} among the validation metrics: {known}"
        # A diverged run would be the best or the worst by an accident of comparisons with NaN.
        if not math.isfinite(value):
            return f"{self.objective} is {value}"
        return None
