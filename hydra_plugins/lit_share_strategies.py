"""A Hydra sweeper for comparing strategies: Hydra's grid, less the cells that would be repeated.

Hydra imports every plugin whenever it starts, so nothing heavy may be imported here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lit_share.lab.errors import one_line
from lit_share.lab.sweeps import Cell, Contained, Progress, fingerprint, settle, status

log = logging.getLogger(__name__)

SUBDIR = "${hydra.job.num}"


class StrategySweeper(BasicSweeper):
    """A grid of overrides, where `strength` and `ties` vary only for strategies that read them.

    `regularizer=none,soft_tie strength=0.01,0.1` has three cells: `none`, and `soft_tie` at two
    strengths.

    A cell is known by its overrides. In a `hydra.sweep.dir` where cells have run already, finished
    ones are not run again, interrupted ones are resumed, and those that failed or whose config has
    changed are restarted: see `lit_share.lab.sweeps.settle`. A cell that fails stops no other,
    whatever launches them; the process exits with an error once all have ended and are compared.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher.

        Raises:
            CompactHydraException: If this process is one of several copies, or `hydra.sweep.subdir`
                is the user's own.
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
                "leave it out, or write hydra/sweeper=basic, which cannot go on with a sweep"
            )
        super().setup(
            hydra_context=hydra_context, task_function=Contained(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the cells that have not finished.

        Args:
            arguments: The overrides of the command line.

        Returns:
            What became of the cells that ran.

        Raises:
            CompactHydraException: After all cells have ended, if there is one that has not
                finished.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (grid,) = self.split_arguments(
            parser.parse_overrides([*self._parse_config(), *arguments]), None
        )
        directory = Path(self.config.hydra.sweep.dir).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        folders = settle(
            directory, {tuple(cell): fingerprint(self._compose(cell)) for cell in grid}
        )
        cells = [cell for cell, folder in folders.items() if status(directory / folder) is None]
        if len(cells) < len(folders):
            log.info(
                f"{len(folders) - len(cells)} of {len(folders)} cells have finished already in "
                f"{directory}"
            )
        go_on = f"repeat the command with hydra.sweep.dir={self.config.hydra.sweep.dir}"
        returns: dict[Cell, JobReturn] = {}
        try:
            with Progress(directory, folders.values()):
                self._launch(
                    cells, {cell: directory / folder for cell, folder in folders.items()}, returns
                )
        except (KeyboardInterrupt, SystemExit):
            log.warning(f"The sweep was stopped. To go on, {go_on}")
            sys.exit(1)  # Lightning ends with 0 where it was told to terminate
        except Exception as error:  # of a launcher whose processes died: cells keep theirs
            log.error(f"The launcher gave up: {one_line(error)}")
        completed = {cell for cell, left in returns.items() if left.status is JobStatus.COMPLETED}
        unfinished = [
            cell
            for cell in cells
            if cell not in completed and status(directory / folders[cell]) != "finished"
        ]
        if unfinished:
            # Hydra does so itself only where no exception is raised.
            self.hydra_context.callbacks.on_multirun_end(
                self.config, config_name=self.config.hydra.job.config_name
            )
            raise CompactHydraException(
                f"{len(unfinished)} of {len(folders)} cells have not finished. To run only these "
                f"again, {go_on}"
            )
        return [*returns.values()]

    def _launch(
        self, cells: Sequence[Cell], folders: Mapping[Cell, Path], returns: dict[Cell, JobReturn]
    ) -> None:
        """Launch cells, and collect what became of those that ended by themselves.

        When a process of joblib's is killed, as by a system that is out of memory, joblib ends all
        the others, too. The cells that were under way are then launched again, one by one: the one
        that dies again has failed. Then the others have their turn.

        Raises:
            Exception: What another launcher raises, whose processes may go on for all one knows.
        """
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
                left = [
                    cell for cell in cells if cell not in returns and status(folders[cell]) is None
                ]
                suspects = [cell for cell in left if _last_start(folders[cell]) != before[cell]]
                if not suspects:
                    raise
                log.warning(f"A process died: {one_line(error).splitlines()[0]}")
                log.warning(
                    f"{len(suspects)} cells were under way, and are launched again, one by one"
                )
            for cell in suspects:
                try:
                    launch([cell])
                except BrokenProcessPool as error:
                    self._note_death(cell, folders[cell], error)
            cells = [cell for cell in left if cell not in suspects]

    def _note_death(self, cell: Cell, folder: Path, error: Exception) -> None:
        from lit_share.lab.app.config import unfinished_result

        log.error(f"The process of {' '.join(cell)} died again: this cell has failed")
        hydra = HydraConfig.instance()
        before, config = hydra.cfg, self._compose(cell)
        hydra.set_config(config)  # for the names of what was chosen
        reason = f"its process died twice: {one_line(error).splitlines()[0]}"
        replace(unfinished_result(config, cell, folder), error=reason).write()
        hydra.cfg = before

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of each cell, in batches of at most ``max_batch_size``."""
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        cells = [list(cell) for cell in dict.fromkeys(self._without_idle(grid))]
        return list(BasicSweeper.split_overrides_to_chunks(cells, max_batch_size))

    def _without_idle(self, grid: list[list[str]]) -> Iterator[Cell]:
        """Return the cells, with strength and ties only where strategies read them."""
        regularizers: dict[Cell, dict[str, Any]] = {}
        ties = next((override for override in grid[0] if override.startswith("ties=")), "")
        for cell in grid:
            chosen = tuple(
                override
                for override in cell
                if override.startswith(("regularizer=", "experiment="))
            )
            if chosen not in regularizers:
                regularizers[chosen] = dict(self._compose(chosen).get("regularizer", {}))
            nodes = regularizers[chosen].values()
            follows = any("ties.patterns" in str(OmegaConf.to_container(node)) for node in nodes)
            kept = [
                o
                for o in cell
                if not o.startswith("strength=") or any("strength" in node for node in nodes)
            ]
            yield tuple(
                ties if not follows and override.startswith("ties=") else override
                for override in kept
            )

    def _compose(self, cell: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(cell))


def _place(folder: Path) -> tuple[str, str]:
    """Overrides for where a cell writes to, which may run in another working directory."""
    quoted = str(folder.parent).replace("'", "\\'")
    return f"hydra.sweep.dir='{quoted}'", f"hydra.sweep.subdir='{folder.name}'"


def _last_start(folder: Path) -> int | None:
    """When a cell was last started, which is when Hydra writes down its overrides."""
    file = folder / ".hydra" / "overrides.yaml"
    return file.stat().st_mtime_ns if file.exists() else None


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
