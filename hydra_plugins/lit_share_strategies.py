"""A Hydra sweeper for comparing strategies: Hydra's grid, less the cells that would be repeated.

Hydra imports every plugin whenever it starts, so nothing heavy may be imported here.
"""

from __future__ import annotations

from collections.abc import Iterator

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


class StrategySweeper(BasicSweeper):
    """A grid over overrides, in which `strength` varies only for strategies that have one.

    `regularizer=none,soft_tie strength=0.01,0.1` has three cells: `none`, and `soft_tie` at two strengths.
    """

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of each cell, in batches of at most ``max_batch_size``."""
        (grid,) = BasicSweeper.split_arguments(overrides, None)
        cells = [list(cell) for cell in dict.fromkeys(self._without_idle_strengths(grid))]
        return list(BasicSweeper.split_overrides_to_chunks(cells, max_batch_size))

    def _without_idle_strengths(self, grid: list[list[str]]) -> Iterator[tuple[str, ...]]:
        assert self.hydra_context is not None
        assert self.config is not None
        has_strength: dict[tuple[str, ...], bool] = {}
        for cell in grid:
            chosen = tuple(override for override in cell if override.startswith(("regularizer=", "experiment=")))
            if chosen not in has_strength:
                config = self.hydra_context.config_loader.load_sweep_config(self.config, list(chosen))
                has_strength[chosen] = any("strength" in node for node in config.get("regularizer", {}).values())
            idle = not has_strength[chosen]
            yield tuple(override for override in cell if not (idle and override.startswith("strength=")))


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="strategies",
    node={"_target_": f"{__name__}.{StrategySweeper.__name__}", "max_batch_size": None, "params": {}},
    provider="lit_share",
)
