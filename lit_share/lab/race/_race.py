"""Backward elimination: untie the layer whose removal is best, while that helps."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lit_share.lab.race._tried import Tried
from lit_share.lab.sweeps import Cell


@dataclass(frozen=True)
class Step:
    """A round that untied a layer.

    Attributes:
        layer: The name of the layer.
        before: The score with the layer tied.
        after: The score without.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class Standing:
    """How far a race has come.

    Attributes:
        trials: The cells of all rounds so far, with their rounds; those of the last may be missing.
        steps: The rounds that untied a layer.
        tied: The layers that are still tied.
        winner: The cell that trains to the end; `None` before the last round has ended, or if the
            trial with all ties has failed.
    """

    trials: dict[Cell, int]
    steps: list[Step] = field(default_factory=list)
    tied: tuple[str, ...] = ()
    winner: Cell | None = None


@dataclass(frozen=True)
class Race:
    """The race of one strategy, seed and other setting.

    Attributes:
        fixed: The overrides that all trials have, without what they exclude from the ties.
        excluded: The patterns that all trials exclude.
        mode: Whether a large or a small score is better.
        epochs: The number of epochs of a trial.
        key: The override's key that excludes ties, with a `+` if the config does not have it.
    """

    fixed: Cell
    excluded: tuple[str, ...]
    mode: str
    epochs: int
    key: str = "ties.exclude"

    @property
    def name(self) -> str:
        """A name that tells the race apart from all others in a sweep's directory."""
        return " ".join(sorted(self.cell()))

    def cell(self, patterns: Collection[str] = ()) -> Cell:
        """Return the trial that excludes patterns besides those that all trials exclude."""
        # The trial with all ties has the override, too, so that tables name what was chosen.
        return (*self.fixed, _override(self.key, [*self.excluded, *patterns]))

    def standing(self, tried: Mapping[Cell, Tried]) -> Standing:
        """Replay the race as far as its trials are known.

        One layer stays tied at least. Of equal scores, those with more ties win, so that a layer
        is only untied if that is better, and among equals the one with the fewest numbers.

        Args:
            tried: The outcomes of cells.
        """
        winner = self.cell()
        standing = Standing({winner: 0})
        first = tried.get(winner)
        # Only a run knows its layers, as the model is not built before.
        if first is None or first.score is None:
            return standing
        layers, score = first.layers, first.score
        tied = tuple(layers)
        trials, steps = standing.trials, standing.steps
        while len(tied) > 1:
            cells = {layer: self._without(layer, tied, layers) for layer in tied}
            trials |= dict.fromkeys(cells.values(), len(steps) + 1)
            # A layer must not win because another one's trial was interrupted.
            if not all(cell in tried for cell in cells.values()):
                return Standing(trials, steps, tied)
            # A trial that failed is not better; the next command repeats it, and this replay.
            scores = {layer: tried[cell].score for layer, cell in cells.items()}
            better = {k: s for k, s in scores.items() if s is not None and self._gain(score, s) > 0}
            # Equal scores are no reason for a larger model.
            if not better:
                break
            # `max` returns the first of equals, and the first layers are the smallest.
            layer = max(better, key=lambda k: self._gain(score, better[k]))
            steps.append(Step(layer, score, better[layer]))
            winner, score = cells[layer], better[layer]
            tied = tuple(k for k in tied if k != layer)
        return Standing(trials, steps, tied, winner)

    def _without(
        self, layer: str, tied: Collection[str], layers: Mapping[str, Collection[str]]
    ) -> Cell:
        # In the order of layers, so that a set has one cell, however the race has come there.
        untied = [k for k in layers if k == layer or k not in tied]
        return self.cell([pattern for k in untied for pattern in layers[k]])

    def _gain(self, before: float, after: float) -> float:
        if self.mode == "min":
            return before - after
        return after - before


def _override(key: str, patterns: Iterable[str]) -> str:
    """Return an override with a list of texts, quoted where Hydra's grammar needs it."""
    texts = []
    for pattern in patterns:
        text = pattern
        if not re.fullmatch(r"[A-Za-z_*][\w.*]*", text):
            escaped = text.replace("'", "\\'")
            text = f"'{escaped}'"
        texts.append(text)
    return f"{key}=[{','.join(texts)}]"
