"""Sweepers of `train.py`, made as Hydra makes them, with launchers that train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import instantiate

from lit_share.lab.app.config import register_schema

CONF = Path(__file__).parents[2] / "conf"


class Launcher:
    """Writes the results of cells; `stop` interrupts the sweep before this cell."""

    def __init__(self, stop: int | None = None, failing: Any = ()) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.stop, self.failing = stop, failing

    def launch(self, cells: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        for cell in cells:
            if len(self.ran) == self.stop:
                raise KeyboardInterrupt
            parsed = OverridesParser.create().parse_overrides([*cell])
            values = {override.key_or_group: override.value() for override in parsed}
            folder = Path(values["hydra.sweep.dir"]) / values["hydra.sweep.subdir"]
            folder.mkdir(parents=True, exist_ok=True)
            overrides = tuple(o for o in cell if not o.startswith("hydra."))
            self.run(folder, values, overrides)
            self.ran.append(overrides)
        return [JobReturn(status=JobStatus.UNKNOWN) for _ in cells]

    def run(self, folder: Path, values: dict[str, Any], overrides: tuple[str, ...]) -> None:
        """Write the result of a cell."""
        raise NotImplementedError


def make(sweeper: str, directory: Path, *overrides: str, launcher: Launcher) -> Any:
    register_schema()
    setup_globals()
    # Hydra executes plugins when it looks for them.
    Plugins.instance()
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{CONF}"))
    own = [f"hydra/sweeper={sweeper}", f"hydra.sweep.dir={directory}", *overrides]
    config = loader.load_configuration("train", own, run_mode=RunMode.MULTIRUN)
    made: Any = instantiate(config.hydra.sweeper)
    made.hydra_context = SimpleNamespace(
        config_loader=loader, callbacks=SimpleNamespace(on_multirun_end=lambda *_, **__: None)
    )
    made.config, made.launcher = config, launcher
    return made


def sweep(
    sweeper: str, directory: Path, *overrides: str, launcher: Launcher
) -> list[tuple[str, ...]]:
    """Run a sweep, which the launcher may interrupt, and return the cells that ran."""
    options = [o for o in overrides if o.startswith("hydra.")]
    made = make(sweeper, directory, *options, launcher=launcher)
    arguments = [o for o in overrides if not o.startswith("hydra.")]
    if launcher.stop is None:
        made.sweep(arguments)
    else:
        with pytest.raises(SystemExit):
            made.sweep(arguments)
    return launcher.ran


def assert_refused(
    sweeper: str, directory: Path, overrides: Sequence[str], told: str, launcher: Launcher
) -> None:
    """A sweep says what is wrong before any cell runs, and writes nothing."""
    options = [o for o in overrides if o.startswith("hydra.")]
    made = make(sweeper, directory, *options, launcher=launcher)
    with pytest.raises(CompactHydraException, match=told):
        made.sweep([o for o in overrides if o not in options])
    assert launcher.ran == []
    assert not directory.exists()
