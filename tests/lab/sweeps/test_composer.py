"""Cells are composed as Hydra composes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf

from lit_share.lab.sweeps import Composer, fingerprint

CONF = Path(__file__).parents[3] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
CELLS = [
    ("seed=3", "strength=0.1"),
    ("regularizer=[growl,l2]", "ties=first_layer", "regularizer.l2.strength=2"),
    ("model.classifier.lr=0.1", "data=sites", "+data.extra={one: 1}", "tune=[ties]"),
    ("callbacks.progress=null", "~callbacks.sharing", "logger=none", "debug=fast"),
    ("data={n_a: 40}", "ties.patterns=[a.*,b.*]", "mode=min"),
]


def content(config: Any) -> Any:
    return OmegaConf.to_container(config)


@pytest.mark.parametrize("cell", [*CELLS, *[(f"experiment={e}", "seed=1") for e in EXPERIMENTS]])
def test_configs_are_those_of_hydra(composer: Composer, cell: tuple[str, ...]) -> None:
    theirs = composer.loader.load_sweep_config(composer.config, [*cell])
    for config in (composer.compose(cell), composer.compose(cell)):
        assert fingerprint(config) == fingerprint(theirs)
        assert content(config) == {k: v for k, v in content(theirs).items() if k != "hydra"}
    assert composer.hydra_of(cell).hydra.runtime.choices == theirs.hydra.runtime.choices


def test_cells_do_not_change_each_other(composer: Composer) -> None:
    assert composer.compose(["seed=3", "data.n_b=7"]).data.n_b == 7
    assert composer.compose(["seed=4"]).data.n_b == 50


def test_groups_are_loaded_once(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = type(composer.loader).load_sweep_config

    def count(*arguments: Any) -> Any:
        loaded.append(arguments[-1])
        return load(*arguments)

    monkeypatch.setattr(type(composer.loader), "load_sweep_config", count)
    for seed in range(20):
        for recipe in ("l2", "growl"):
            composer.compose([f"regularizer={recipe}", f"seed={seed}"])
    assert loaded == [["regularizer=l2"], ["regularizer=growl"]]


@pytest.mark.parametrize(
    "override", ["sed=1", "seed=a", "regularizer=soft_tye", "model.classifer.lr=1", "mode=most"]
)
def test_errors_are_those_of_hydra(composer: Composer, override: str) -> None:
    with pytest.raises(HydraException) as theirs:
        composer.loader.load_sweep_config(composer.config, [override])
    for _ in range(2):
        with pytest.raises(ConfigCompositionException) as ours:
            composer.compose([override])
        assert str(ours.value) == str(theirs.value)
