"""The sweeper leaves out cells that would only be repeated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import RunMode

from lit_share.lab.app.config import register_schema

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def sweeper() -> Any:
    register_schema()
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{CONF}"))
    # Hydra executes plugins again when it finds them, so this class must be Hydra's.
    found = Plugins.instance().class_name_to_class[
        "hydra_plugins.lit_share_strategies.StrategySweeper"
    ]
    made: Any = found(max_batch_size=None)
    made.hydra_context = SimpleNamespace(config_loader=loader)
    made.config = loader.load_configuration("train", overrides=[], run_mode=RunMode.MULTIRUN)
    return made


def cells(
    sweeper: Any, *overrides: str, max_batch_size: int | None = None
) -> list[list[list[str]]]:
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    parsed = parser.parse_overrides(list(overrides))
    return sweeper.split_arguments(parsed, max_batch_size)  # type: ignore[no-any-return]


def test_strength_varies_only_where_there_is_one(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=none,soft_tie,hard_tie", "strength=0.1,0.2", "seed=0,1")
    assert grid == [
        ["regularizer=none", "seed=0"],
        ["regularizer=none", "seed=1"],
        ["regularizer=soft_tie", "strength=0.1", "seed=0"],
        ["regularizer=soft_tie", "strength=0.1", "seed=1"],
        ["regularizer=soft_tie", "strength=0.2", "seed=0"],
        ["regularizer=soft_tie", "strength=0.2", "seed=1"],
        ["regularizer=hard_tie", "seed=0"],
        ["regularizer=hard_tie", "seed=1"],
    ]


def test_combined_regularizers_have_a_strength(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=[growl,l2]", "strength=0.1,0.2")
    assert len(grid) == 2


def test_default_regularizer_counts(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "strength=0.1,0.2")
    assert grid == [["strength=0.1"], ["strength=0.2"]]


def test_batches_have_the_asked_size(sweeper: Any) -> None:
    batches = cells(sweeper, "regularizer=none,soft_tie", "strength=0.1,0.2", max_batch_size=2)
    assert [len(batch) for batch in batches] == [2, 1]


def test_ties_vary_only_where_they_are_read(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=none,lasso,hard_tie", "ties=all,first_layer")
    assert grid == [
        ["regularizer=none", "ties=all"],
        ["regularizer=lasso", "ties=all"],
        ["regularizer=hard_tie", "ties=all"],
        ["regularizer=hard_tie", "ties=first_layer"],
    ]
