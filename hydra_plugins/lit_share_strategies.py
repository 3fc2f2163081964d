"""A Hydra sweeper that compares strategies: Hydra's grid without repeated cells."""

# Hydra imports all plugins whenever it starts, so this file must not import anything heavy.

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException, HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lit_share.files import write_text
from lit_share.lab.errors import one_line
from lit_share.lab.sweeps import (
    Cell,
    Composer,
    Contained,
    Progress,
    SweepPlan,
    described,
    fingerprint,
    settle,
    states,
    status,
)

if TYPE_CHECKING:
    from lit_share.lab.app.cells import CheckedCells

log = logging.getLogger(__name__)

SUBDIR = "${hydra.job.num}"


class StrategySweeper(BasicSweeper):
    """Run a grid of overrides; `strength` and `ties` vary only for strategies that read them.

    `regularizer=none,soft_tie strength=0.01,0.1` has three cells: `none`, and `soft_tie` at two
    strengths. `ties.patterns` and `ties.exclude` are ties, too.

    In a `hydra.sweep.dir` that has cells with the same overrides, finished cells are skipped,
    interrupted cells are resumed, and cells that failed or whose config has changed are restarted:
    see `lit_share.lab.sweeps.settle`. If a cell fails, the others still run, with any launcher; the
    process exits with an error after all cells have ended and are compared.

    All configs are checked before the first cell runs. With `dry_run=true` that is all: the cells
    are printed.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher.

        Raises:
            CompactHydraException: If torchrun started this process, or the user has set
                `hydra.sweep.subdir`.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise CompactHydraException(
                "torchrun would start this multirun in each of its processes: start it with plain "
                "python, and write trainer.strategy=ddp_spawn for several processes in each cell"
            )
        sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        subdir = sweep["subdir"]
        if subdir != SUBDIR:
            raise CompactHydraException(
                f"hydra.sweep.subdir={subdir}: this sweeper numbers the folders of cells itself; "
                "leave it out, or write hydra/sweeper=basic, which cannot resume a sweep"
            )
        super().setup(
            hydra_context=hydra_context, task_function=Contained(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the cells that have not finished, and return their results.

        Args:
            arguments: The overrides of the command line.

        Raises:
            CompactHydraException: Before any cell runs, if the config of a cell is wrong; after all
                cells have ended, if a cell has not finished.
        """
        overrides = self._parse(arguments)
        (grid,) = self.split_arguments(overrides, None)
        cells = [tuple(cell) for cell in grid]
        checked = self._check(cells)
        directory = self._directory()
        if self._is_dry:
            wrong = {cell for those in checked.problems.values() for cell in those}
            prints = {c: None if c in wrong else checked.prints[c] for c in cells}
            self._print_plan(SweepPlan(directory, states(directory, prints)), checked)
        self._open(directory)
        folders = settle(directory, checked.prints)
        paths = {cell: directory / folder for cell, folder in folders.items()}
        cells = [cell for cell, path in paths.items() if status(path) is None]
        if len(cells) < len(folders):
            log.info(
                f"{len(folders) - len(cells)} of {len(folders)} cells have finished already in "
                f"{directory}"
            )
        returns: dict[Cell, JobReturn] = {}
        with self._to_be_resumed(), Progress(directory, folders.values()):
            self._launch(cells, paths, returns)
        self._end(cells, paths, returns)
        return [*returns.values()]

    def _parse(self, arguments: Sequence[str]) -> list[Override]:
        """Parse the overrides of the config and of the command line, without `dry_run`."""
        overrides = self._composer.parser.parse_overrides([*self._parse_config(), *arguments])
        # A dry run has the same cells as the sweep.
        return [override for override in overrides if override.key_or_group != "dry_run"]

    @cached_property
    def _composer(self) -> Composer:
        assert self.config is not None
        assert self.hydra_context is not None
        return Composer(self.hydra_context.config_loader, self.config)

    @cached_property
    def _idle_keys(self) -> dict[Cell, Collection[str]]:
        return {}

    @property
    def _is_dry(self) -> bool:
        assert self.config is not None
        return bool(self.config.get("dry_run"))

    def _directory(self) -> Path:
        assert self.config is not None
        return Path(self.config.hydra.sweep.dir).absolute()

    def _check(self, cells: Sequence[Cell]) -> CheckedCells:
        """Check the configs of cells.

        Raises:
            CompactHydraException: If any is wrong, unless this is a dry run.
        """
        from lit_share.lab.app.cells import check_cells

        checked = check_cells(cells, self._composer, self._directory(), look_around=self._is_dry)
        if checked.problems and not self._is_dry:
            found = "\n".join(described(checked.problems, cells))
            raise CompactHydraException(f"Nothing was run, because cells are wrong:\n{found}")
        return checked

    def _print_plan(self, plan: SweepPlan, checked: CheckedCells) -> None:
        """Print a plan, and exit, with 1 if a cell is wrong."""
        from rich.console import Console

        plan = replace(plan, problems=checked.problems, missing=checked.missing)
        console = Console()
        # Log files are not limited to Rich's 80 columns.
        if not console.is_terminal:
            console.width = 160
        console.print(plan)
        # Hydra would call what compares the runs of a multirun if `sweep` returned.
        sys.exit(int(bool(checked.problems)))

    def _open(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "multirun.yaml", OmegaConf.to_yaml(self.config))

    @property
    def _repeat(self) -> str:
        assert self.config is not None
        return f"repeat the command with hydra.sweep.dir={self.config.hydra.sweep.dir}"

    @contextmanager
    def _to_be_resumed(self) -> Iterator[None]:
        """Say how to resume a sweep that is stopped, and log errors of the launcher."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            log.warning(f"The sweep was stopped. To resume it, {self._repeat}")
            # Lightning would exit with 0 after SIGTERM.
            sys.exit(1)
        except Exception as error:
            # `Contained` keeps the errors of cells, so this is an error of the launcher, whose
            # processes may have died.
            log.error(f"The launcher failed: {one_line(error)}")

    def _end(
        self,
        cells: Sequence[Cell],
        folders: Mapping[Cell, Path],
        returns: Mapping[Cell, JobReturn],
        failed: Collection[Cell] = (),
    ) -> None:
        """Raise if a cell that was launched has not finished, or is among `failed`.

        Raises:
            CompactHydraException: In that case, after the others are compared.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        completed = {cell for cell, job in returns.items() if job.status is JobStatus.COMPLETED}
        others = [cell for cell in cells if cell not in completed or cell in failed]
        ended = ("finished", "pruned")
        unfinished = [c for c in others if c in failed or status(folders[c]) not in ended]
        if unfinished:
            # Hydra calls `on_multirun_end` only if `sweep` returns.
            self.hydra_context.callbacks.on_multirun_end(
                self.config, config_name=self.config.hydra.job.config_name
            )
            raise CompactHydraException(
                f"{len(unfinished)} of {len(folders)} cells have not finished. To run only these "
                f"again, {self._repeat}"
            )

    def _launch(
        self, cells: Sequence[Cell], folders: Mapping[Cell, Path], returns: dict[Cell, JobReturn]
    ) -> None:
        """Launch cells, and add the results of those that end to `returns`.

        If a process of joblib is killed, for example because memory is exhausted, joblib ends all
        its processes. The cells that were running are then launched again, one by one, and a cell
        whose process dies twice has failed. The remaining cells follow.
        """
        # Errors of other launchers are raised, as their processes may still be running cells.
        launcher = self.launcher
        assert launcher is not None

        def launch(batch: Sequence[Cell]) -> None:
            placed = [[*cell, *_place(folders[cell])] for cell in batch]
            ended = launcher.launch(placed, initial_job_idx=len(returns))
            returns.update(zip(batch, ended, strict=True))

        size = self.max_batch_size or max(len(cells), 1)
        while cells:
            before = {cell: _last_start(folders[cell]) for cell in cells}
            try:
                for i in range(0, len(cells), size):
                    launch(cells[i : i + size])
                return
            except BrokenProcessPool as error:
                unfinished = [c for c in cells if c not in returns and status(folders[c]) is None]
                suspects = [c for c in unfinished if _last_start(folders[c]) != before[c]]
                # A launcher that started no cell would fail again.
                if not suspects:
                    raise
                log.warning(f"A process died: {one_line(error).splitlines()[0]}")
                log.warning(
                    f"{len(suspects)} cells were running, and are launched again, one by one"
                )
            for cell in suspects:
                try:
                    launch([cell])
                except BrokenProcessPool as error:
                    self._note_death(cell, folders[cell], error)
            cells = [cell for cell in unfinished if cell not in suspects]

    def _note_death(self, cell: Cell, folder: Path, error: Exception) -> None:
        from lit_share.lab.app.config import unfinished_result

        log.error(f"The process of {' '.join(cell)} died again: this cell has failed")
        hydra = HydraConfig.instance()
        before, config = hydra.cfg, self._compose(cell)
        # `unfinished_result` reads the choices of the cell from Hydra's config.
        hydra.set_config(self._composer.hydra_of(cell))
        reason = f"its process died twice: {one_line(error).splitlines()[0]}"
        replace(unfinished_result(config, cell, folder), error=reason).write()
        hydra.cfg = before

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of each cell, in batches of at most ``max_batch_size``."""
        from lit_share.lab.search import refuse_range_in_list

        for override in overrides:
            try:
                refuse_range_in_list(override)
            except ValueError as error:
                raise CompactHydraException(str(error)) from None
            if override.is_interval_sweep():
                raise CompactHydraException(
                    f"{override.input_line}: a grid lists values, as in "
                    f"{override.key_or_group}=0.01,0.1,1; hydra/sweeper=optuna searches ranges"
                )
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        cells = [list(cell) for cell in dict.fromkeys(self._without_idle(grid))]
        return list(BasicSweeper.split_overrides_to_chunks(cells, max_batch_size))

    def _without_idle(self, grid: Sequence[Sequence[str]]) -> Iterator[Cell]:
        """Return the cells, with strength and ties only where strategies read them."""
        # The first ties stand for all: cells that differ in ties only become duplicates.
        first = {key_of(o): o for o in grid[0] if group_of_key(key_of(o)) == "ties"}
        for cell in grid:
            idle = self._idle(cell)
            kept: list[str] = []
            for override in cell:
                group = group_of_key(key_of(override))
                if group in idle and group == "ties":
                    kept.append(first[key_of(override)])
                elif group not in idle:
                    kept.append(override)
            yield tuple(kept)

    def _idle(self, cell: Sequence[str]) -> Collection[str]:
        """Return which of `strength` and `ties` a cell's strategies do not read."""
        # Each choice of strategies is read once, as a grid has many cells of each.
        chosen = tuple(o for o in cell if o.startswith(("regularizer=", "experiment=")))
        if chosen not in self._idle_keys:
            try:
                nodes = self._compose(chosen).get("regularizer", {}).values()
            except HydraException:
                # The check of all cells reports what is wrong.
                return ()
            keys = {"strength", "ties"}
            read = "".join(str(OmegaConf.to_container(node)) for node in nodes)
            if "ties.patterns" in read or "ties.exclude" in read:
                keys.discard("ties")
            if any("strength" in node for node in nodes):
                keys.discard("strength")
            self._idle_keys[chosen] = keys
        return self._idle_keys[chosen]

    def _compose(self, cell: Sequence[str]) -> DictConfig:
        return self._composer.compose(cell)

    @cached_property
    def _prints(self) -> dict[Cell, str]:
        return {}

    def _print_of(self, cell: Cell) -> str:
        # Searches and races ask for the fingerprints of all their trials in each round.
        if cell not in self._prints:
            self._prints[cell] = fingerprint(self._compose(cell))
        return self._prints[cell]


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.partition("=")[0].lstrip("+~")


def group_of_key(key: str) -> str:
    """Return the first name in a key: ``ties`` of ``ties.exclude``."""
    return key.partition(".")[0]


def _place(folder: Path) -> tuple[str, str]:
    """Return the overrides for the folder of a cell."""
    # The path is absolute, because a launcher may run a cell in another working directory.
    quoted = str(folder.parent).replace("'", "\\'")
    return f"hydra.sweep.dir='{quoted}'", f"hydra.sweep.subdir='{folder.name}'"


def _last_start(folder: Path) -> int | None:
    """Return when a cell was last started, or None."""
    # Hydra writes this file at each start.
    file = folder / ".hydra" / "overrides.yaml"
    if not file.exists():
        return None
    return file.stat().st_mtime_ns


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="strategies",
    node={
        "_target_": f"{__name__}.{StrategySweeper.__name__}",
        "max_batch_size": None,
        "params": {},
    },
    provider="lit_share",
)
