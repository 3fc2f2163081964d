"""A Hydra sweeper that finds which layers should be tied, by a race of short trials."""

# Hydra imports all plugins whenever it starts, so this file must not import anything heavy.

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.lit_share_strategies import StrategySweeper
from lit_share.lab.sweeps import (
    Cell,
    Progress,
    SweepPlan,
    known_cells,
    settle,
    states,
    status,
)

if TYPE_CHECKING:
    from lit_share.lab.race import Race, Standing, Tried

log = logging.getLogger(__name__)

# Trials of a sixth of the epochs chose other layers, which cost half a point of accuracy on digits.
PARTS = 4


# Hydra executes plugins in the order of their files: this one has to come after `StrategySweeper`.
class RaceSweeper(StrategySweeper):
    """Untie one layer after the other, while that is better on validation data.

    Each combination of the overrides' lists, which has a strategy and a seed, is a race. It begins
    with all ties. A trial trains a few epochs, from the same seed and so from the same initial
    weights. In each round, every layer that is still tied is untied in a trial of its own, and the
    layer whose trial is best is untied for good if it is better than the best so far. The winner
    trains on, from its own checkpoint, to the end. With L layers there are at most L (L + 1) / 2
    trials. One layer stays tied at least: `none` is a strategy of its own.

    Strategies whose configs do not read `ties.exclude` run without a race. Results and `cells.json`
    are the only record of a race, so that it is resumed in its directory.

    Args:
        epochs: The number of epochs of a trial; `None` for a quarter of `trainer.max_epochs`.
        options: See `StrategySweeper`.
    """

    def __init__(self, epochs: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.epochs = epochs
        self._logged: set[tuple[str, int]] = set()

    def _sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the trials and the winners that have not finished, and return their results.

        Args:
            arguments: The overrides of the command line.

        Raises:
            CompactHydraException: Before any cell runs, if a config is wrong, or trials would be
                no shorter than runs; after all cells have ended, if one has not finished.
        """
        overrides = self._parse(arguments)
        (grid,) = self.split_arguments(overrides, None)
        cells = [tuple(cell) for cell in grid]
        checked = self._check(cells)
        wrong = {cell for those in checked.problems.values() for cell in those}
        right = [cell for cell in cells if cell not in wrong]
        races = [self._race(cell) for cell in right if self._is_raced(cell)]
        others = [cell for cell in right if not self._is_raced(cell)]
        if others:
            log.info(
                f"{len(others)} of {len(right)} cells run without a race: none of their "
                "regularizers reads ties.exclude, by which layers are untied"
            )
        directory = self._directory()
        self._refuse_other_epochs(directory, races)
        if self._is_dry:
            log.info(
                f"{len(races)} races: each tries at most L (L + 1) / 2 sets of its L layers, and "
                "trains on with the best. The trials that are known so far:"
            )
            prints: dict[Cell, str | None] = dict.fromkeys(wrong)
            prints |= {c: self._print_of(c) for c in self._entries(directory, races, others)}
            self._print_plan(SweepPlan(directory, states(directory, prints)), checked)
        self._open(directory)
        launched: list[Cell] = []
        returns: dict[Cell, JobReturn] = {}
        while True:
            entries = self._entries(directory, races, others, launched)
            own = {cell: self._print_of(cell) for cell in entries}
            failed = self._without_score(directory, entries)
            folders = settle(directory, own, entries, ran=launched, failed=failed)
            paths = {cell: directory / folder for cell, folder in folders.items()}
            # A trial has no result any more if it was the winner of an earlier command.
            done = {cell for cell, entry in entries.items() if {"trial", "score"} <= entry.keys()}
            left = [c for c in entries if c not in done and status(paths[c]) is None]
            if not left:
                break
            for cell in left:
                # A winner is launched twice, and only the second time counts.
                returns.pop(cell, None)
            launched = [*dict.fromkeys([*launched, *left])]
            with self._to_be_resumed(), Progress(directory, [folders[cell] for cell in left]):
                self._launch(left, paths, returns)
            if any(status(paths[cell]) is None for cell in left):
                # The launcher has failed, and later rounds need the results of this one.
                break
        failed = self._without_score(directory, entries)
        for cell in failed:
            log.warning(
                f"{' '.join(cell)}: its score is not a finite number, so that this trial has failed"
            )
        self._end(launched, paths, returns, failed)
        return [*returns.values()]

    def _is_raced(self, cell: Cell) -> bool:
        """Whether a cell's strategy reads `ties.exclude`, by which a race unties layers."""
        nodes = self._compose(cell).get("regularizer", {}).values()
        texts = [str(OmegaConf.to_container(node)) for node in nodes if node is not None]
        return any("ties.exclude" in text for text in texts)

    def _race(self, cell: Cell) -> Race:
        """Return the race that begins with a cell.

        Raises:
            CompactHydraException: If the config does not say what is better, trials would be no
                shorter than runs, or the penalty begins after them.
        """
        from lit_share.lab.race import Race

        config = self._compose(cell)
        if not {"objective", "mode", "ties", "trainer"} <= {*config}:
            raise CompactHydraException(
                "hydra/sweeper=race needs the keys objective, mode, ties and trainer in the "
                "config, as in conf/train.yaml"
            )
        strength = config.get("strength")
        # The name of a path, or a mapping from it to keywords.
        if strength == "path" or (isinstance(strength, DictConfig) and "path" in strength):
            raise CompactHydraException(
                f"strength={strength}: a path begins without the penalty, so that trials of "
                "a race would have none: write a number, or learned"
            )
        key = "ties.exclude"
        if key.partition(".")[2] not in config.ties:
            key = f"+{key}"
        fixed = tuple(o for o in cell if o.partition("=")[0].lstrip("+") != "ties.exclude")
        mode = str(getattr(config.mode, "name", config.mode))
        excluded: Any = OmegaConf.select(config, "ties.exclude")
        return Race(fixed, tuple(_flat(excluded)), mode, self._epochs_of(config), key)

    def _epochs_of(self, config: DictConfig) -> int:
        most = config.trainer.get("max_epochs")
        if most is None or most < 0:
            raise CompactHydraException(
                "hydra/sweeper=race needs trainer.max_epochs, of which a trial trains a part"
            )
        epochs = self.epochs
        if epochs is None:
            epochs = math.ceil(most / PARTS)
        if not 1 <= epochs < most:
            raise CompactHydraException(
                f"hydra.sweeper.epochs={epochs}: trials train fewer than the {most} epochs of "
                "trainer.max_epochs, and at least 1"
            )
        if (config.trainer.get("min_epochs") or 0) > epochs:
            raise CompactHydraException(
                f"trainer.min_epochs={config.trainer.min_epochs} keeps trials from ending after "
                f"hydra.sweeper.epochs={epochs}: leave it out"
            )
        return epochs

    def _refuse_other_epochs(self, directory: Path, races: Sequence[Race]) -> None:
        """Raise if trials in the sweep's directory are longer or shorter than those of races."""
        epochs = {race.name: race.epochs for race in races}
        for entry in known_cells(directory).values():
            asked = epochs.get(entry.get("race", ""))
            if asked is not None and entry["epochs"] != asked:
                raise CompactHydraException(
                    f"hydra.sweeper.epochs={asked}: the trials in {directory} have "
                    f"{entry['epochs']} epochs: write as many, or name another hydra.sweep.dir"
                )

    def _entries(
        self,
        directory: Path,
        races: Sequence[Race],
        others: Sequence[Cell],
        ran: Collection[Cell] = (),
    ) -> dict[Cell, dict[str, Any]]:
        """Return the cells of all rounds so far, with what `cells.json` is to say of each.

        Trials have the number of their round as "trial", winners have none.

        Args:
            directory: The sweep's directory.
            races: The races.
            others: Cells without a race.
            ran: Cells that this command has run; other failures will be repeated.
        """
        tried = self._tried(directory, ran)
        entries: dict[Cell, dict[str, Any]] = {cell: {} for cell in others}
        for race in races:
            standing = race.standing(tried)
            self._log_rounds(race, standing, races)
            for cell, number in standing.trials.items():
                entry = {"race": race.name, "epochs": race.epochs, "trial": number}
                known = tried.get(cell)
                if known is not None and known.score is not None:
                    # The result of the winner's trial is overwritten when it trains on.
                    entry |= {"score": known.score, "layers": dict(known.layers)}
                if cell == standing.winner:
                    del entry["trial"]
                entries[cell] = entry
        return entries

    def _tried(self, directory: Path, ran: Collection[Cell]) -> dict[Cell, Tried]:
        """Return the outcomes of trials whose configs are still the same; see `_entries`."""
        from lit_share.lab.race import Tried, tried_in

        tried: dict[Cell, Tried] = {}
        for folder, entry in known_cells(directory).items():
            cell = tuple(entry["overrides"])
            if "race" not in entry or not self._is_unchanged(cell, entry["config"]):
                continue
            outcome = tried_in(directory / folder)
            if "score" in entry:
                outcome = Tried(entry["score"], entry["layers"])
            if outcome is not None and (outcome.score is not None or cell in ran):
                tried[cell] = outcome
        return tried

    def _without_score(
        self, directory: Path, entries: Mapping[Cell, Mapping[str, Any]]
    ) -> list[Cell]:
        """Return the trials that have ended without a finite score: they cannot be ranked."""
        from lit_share.lab.race import tried_in

        found = []
        for folder, known in known_cells(directory).items():
            cell = tuple(known["overrides"])
            entry = entries.get(cell, {})
            # The result of a winner is that of a whole run.
            if "trial" not in entry or "score" in entry:
                continue
            outcome = tried_in(directory / folder)
            has_score = outcome is not None and outcome.score is not None
            if not has_score and status(directory / folder) in ("finished", "pruned"):
                found.append(cell)
        return found

    def _is_unchanged(self, cell: Cell, print_: str) -> bool:
        try:
            return self._print_of(cell) == print_
        except HydraException:
            # A cell of an earlier command may have keys that the configs no longer have.
            return False

    def _log_rounds(self, race: Race, standing: Standing, races: Sequence[Race]) -> None:
        """Log the rounds that this command has not logged yet."""
        common = set.intersection(*({*other.fixed} for other in races))
        name = " ".join(o for o in race.fixed if o not in common) or "race"
        lines = [
            f"{name}, round {i}: untied {step.layer}, from {step.before:.4g} to {step.after:.4g} "
            f"({step.after - step.before:+.4f})"
            for i, step in enumerate(standing.steps, 1)
        ]
        if standing.winner is not None:
            lines.append(f"{name}: {', '.join(standing.tied)} stay tied, and the winner trains on")
        for i, line in enumerate(lines):
            if (race.name, i) not in self._logged:
                self._logged.add((race.name, i))
                log.info(line)


def _flat(excluded: Any) -> list[str]:
    """Return patterns as a list; those of another config may be a list within."""
    if excluded is None or isinstance(excluded, str):
        return [excluded] if excluded else []
    return [pattern for each in excluded for pattern in _flat(each)]


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="race",
    node={
        "_target_": f"{__name__}.{RaceSweeper.__name__}",
        "max_batch_size": None,
        "params": {},
        "epochs": None,
    },
    provider="lit_share",
)
