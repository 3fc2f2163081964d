"""A Hydra sweeper that searches ranges with Optuna, and stops unpromising cells early."""

# Hydra imports all plugins whenever it starts, so this file must not import anything heavy.

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from hydra_plugins.lit_share_strategies import StrategySweeper, group_of_key, key_of
from lit_share.lab.errors import one_line
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
    from lit_share.lab.search import Space, Study

log = logging.getLogger(__name__)


class OptunaSweeper(StrategySweeper):
    """Search values on validation data, with the same number of trials for each strategy.

    Ranges such as `strength=tag(log,interval(0.001,1))`, and lists of `strength` and of keys in
    `tune`, are chosen by Optuna; all other lists are a grid. Each of its combinations, which has a
    strategy and a seed, is a study of its own, so that choices are made as in a grid: for each
    strategy and seed, on validation data. Numbers, `learned` and `path` in a list of `strength` are
    strategies of their own there, and so they are studies of their own. One trial of each study
    runs at a time.

    The results are the only record of a study. A search that is repeated in its directory goes on
    with the trials that it lacks, and has the same trials as if it had not been interrupted.

    Args:
        n_trials: Number of trials of each study; lists with fewer combinations are tried entirely.
        seed: Seed of the samplers.
        sampler: Config of an `optuna.samplers.BaseSampler`, without its seed.
        pruner: Config of an `optuna.pruners.BasePruner`; `None` stops no cell early.
        options: See `StrategySweeper`.
    """

    def __init__(
        self,
        n_trials: int,
        seed: int,
        sampler: DictConfig,
        pruner: DictConfig | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.n_trials, self.seed = n_trials, seed
        self.sampler, self.pruner = sampler, pruner

    def _sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the trials that have not finished, and return their results.

        Args:
            arguments: The overrides of the command line.

        Raises:
            CompactHydraException: Before any cell runs, if Optuna is not installed, there is
                nothing to search, or a config is wrong; after all trials have ended, if one has
                not finished.
        """
        studies = self._studies(self._parse(arguments))
        corners = {corner: study for study in studies for corner in study.corners()}
        checked = self._check([*corners])
        directory = self._directory()
        if self._is_dry:
            for found in (checked.problems, checked.missing):
                for text, cells in found.items():
                    # What is counted are studies, which may have several corners.
                    found[text] = list(dict.fromkeys(_all_of(corners[cell]) for cell in cells))
            self._print_plan(self._plan(directory, studies), checked)
        self._open(directory)
        paths: dict[Cell, Path] = {}
        launched: list[Cell] = []
        returns: dict[Cell, JobReturn] = {}
        total = sum(study.trials for study in studies)
        with Progress(directory, (), total=total) as progress:
            for number in range(max(study.trials for study in studies)):
                folders = self._settle(directory, studies, number, launched)
                paths |= {cell: directory / folder for cell, folder in folders.items()}
                progress.expect(folders.values())
                cells = [cell for cell in folders if status(paths[cell]) is None]
                launched += cells
                with self._to_be_resumed():
                    self._launch(cells, paths, returns)
                if any(status(paths[cell]) is None for cell in cells):
                    # The launcher has failed, and later trials need the results of these.
                    break
        if len(launched) < len(paths):
            log.info(f"{len(paths) - len(launched)} of {total} trials had ended in {directory}")
        self._end(launched, paths, returns)
        return [*returns.values()]

    def _studies(self, overrides: Sequence[Override]) -> list[Study]:
        """Return the studies: one for each combination of what is not searched."""
        from lit_share.lab.search import Study, load_optuna, searched, split_by_way

        fixed = [o.input_line for o in overrides if not o.is_sweep_override() and o.input_line]
        common = self._compose(fixed)
        if "objective" not in common or "mode" not in common:
            raise CompactHydraException(
                "hydra/sweeper=optuna needs the keys objective and mode in the config, as in "
                "conf/train.yaml"
            )
        try:
            load_optuna()
            space = searched(overrides, common.get("tune", ()))
        except (ImportError, ValueError) as error:
            raise CompactHydraException(str(error)) from None
        if not isinstance(self.n_trials, int) or self.n_trials < 1:
            raise CompactHydraException(
                f"hydra.sweeper.n_trials={self.n_trials}: write 1 or more, a whole number"
            )
        self._check_options()
        mode = str(getattr(common.mode, "name", common.mode))
        studies: dict[str, Study] = {}
        for cell in self._grid(overrides, space):
            keys = [override.partition("=")[0] for override in cell]
            idle = self._idle(cell)
            read = [key for key in keys if group_of_key(key_of(key)) not in idle]
            chosen = tuple(space[key] for key in read if key in space)
            names = {choice.key for choice in chosen}
            rest = tuple(o for o in cell if o.partition("=")[0] not in names)
            for given, own in split_by_way(chosen):
                study = Study((*rest, *given), own, mode, self.n_trials)
                studies[study.name] = study
        return [*studies.values()]

    def _check_options(self) -> None:
        """Build the sampler and the pruner, so that mistakes are found before any cell runs."""
        options: dict[str, dict[str, Any]] = {"sampler": {"seed": 0}, "pruner": {}}
        for name, keywords in options.items():
            try:
                instantiate(getattr(self, name), **keywords)
            except InstantiationException as error:
                raise CompactHydraException(f"hydra.sweeper.{name}: {one_line(error)}") from None

    def _grid(self, overrides: Sequence[Override], space: Space) -> list[Cell]:
        """Return the combinations of what is not searched; searched keys have their first value."""
        fixed = []
        for override in overrides:
            choice = space.get(override.get_key_element())
            if choice is not None:
                (override,) = self._composer.parser.parse_overrides([choice.ends()[0]])
            fixed.append(override)
        (grid,) = BasicSweeper.split_arguments(fixed, None)
        return [*self._without_idle(grid)]

    def _settle(
        self, directory: Path, studies: Sequence[Study], number: int, launched: Sequence[Cell]
    ) -> dict[Cell, str]:
        """Assign folders to the trials of a number; those of an interrupted search keep theirs."""
        from lit_share.lab.search import trials_of

        known = known_cells(directory)
        recorded = _recorded(known)
        of_study: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for folder, entry in known.items():
            of_study[entry.get("study", "")][folder] = entry
        trials: dict[Cell, dict[str, Any]] = {}
        for study in studies:
            if number >= study.trials:
                continue
            cell = recorded.get((study.name, number))
            if cell is None:
                ended = trials_of(directory, of_study[study.name], study.name, before=number)
                cell = study.ask(number, ended, self._sampler, self.seed)
            trials[cell] = {"study": study.name, "trial": number}
        # Trials of other numbers stay what they are.
        budgets = {study.name: study.trials for study in studies}
        for (name, other), cell in recorded.items():
            if other < budgets.get(name, 0):
                trials.setdefault(cell, {"study": name, "trial": other})
        prints = {cell: self._print_of(cell) for cell in trials}
        folders = settle(directory, prints, trials, ran=launched)
        return {cell: folders[cell] for cell, trial in trials.items() if trial["trial"] == number}

    def _sampler(self, seed: int) -> Any:
        return instantiate(self.sampler, seed=seed)

    def _plan(self, directory: Path, studies: Sequence[Study]) -> SweepPlan:
        """Return the plan of a search, with a cell for all trials of a study that are not known."""
        recorded = _recorded(known_cells(directory))
        cells: dict[Cell, str | None] = {}
        trials: dict[Cell, int] = {}
        for study in studies:
            numbers = range(study.trials)
            known = [recorded[study.name, i] for i in numbers if (study.name, i) in recorded]
            cells |= {cell: self._print_of(cell) for cell in known}
            if len(known) < study.trials:
                cells[_all_of(study)] = ""
                trials[_all_of(study)] = study.trials - len(known)
        return SweepPlan(directory, states(directory, cells), trials=trials)


def _all_of(study: Study) -> Cell:
    """Return overrides that stand for all trials of a study, with ranges and lists as values."""
    return (*study.fixed, *(f"{choice.key}={choice}" for choice in study.space))


def _recorded(known: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, int], Cell]:
    """Return the cell of each trial, by its study's name and its number."""
    return {
        (cell["study"], cell["trial"]): tuple(cell["overrides"])
        for cell in known.values()
        if "study" in cell
    }


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="optuna",
    node={
        "_target_": f"{__name__}.{OptunaSweeper.__name__}",
        # Optuna is an extra, whose classes are built when a search begins.
        "_recursive_": False,
        "max_batch_size": None,
        "params": {},
        "n_trials": 10,
        "seed": 0,
        "sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 4},
        "pruner": {
            "_target_": "optuna.pruners.MedianPruner",
            "n_startup_trials": 1,
            "n_warmup_steps": 3,
        },
    },
    provider="lit_share",
)
