"""All cells of a sweep are checked before the first one trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from lit_share.lab.app.cells import CheckedCells, check_cells
from lit_share.lab.sweeps import Composer

GOOD = ("regularizer=soft_tie", "seed=0")


def problems(composer: Composer, *cells: tuple[str, ...]) -> dict[str, list[tuple[str, ...]]]:
    return check_cells(cells, composer, Path("/nowhere")).problems


def test_good_cells(composer: Composer) -> None:
    before = HydraConfig.instance().cfg
    checked = check_cells([GOOD, ("seed=1", "logger=csv")], composer, Path("/nowhere"))
    assert len(set(checked.prints.values())) == 2
    assert (checked.problems, checked.missing) == ({}, {})
    assert HydraConfig.instance().cfg is before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sed=1", "Could not override 'sed'."),
        ("seed=a", "Error merging override seed=a: Value 'a' of type 'str' could not be"),
        ("seed=-1", "seed=-1: write a whole number of at least 0"),
        ("regularizer=soft_tye", "Could not find 'regularizer/soft_tye'"),
        ("strength=-1", "regularizer.soft_tie: strength must be a finite number"),
        ("ties.patterns=[a.*,b.*.*]", "must have the same number of stars"),
        ("data.n_a=many", "data.n_a: expected int, got 'many'"),
        ("retrain.similarity=2", "retrain.similarity=2.0: write a number in (0, 1]"),
        ("tune=[seed]", "that would be choosing the luckiest run"),
    ],
)
def test_what_is_wrong_is_named(composer: Composer, override: str, told: str) -> None:
    bad = ("strength=0.1", override)
    ((problem, cells),) = problems(composer, GOOD, bad).items()
    assert told in problem
    assert "Config search path" not in problem
    assert cells == [bad]


def test_all_problems_are_found_with_all_their_cells(composer: Composer) -> None:
    cells = [
        (f"strength={strength}", f"model={model}", f"seed={seed}")
        for strength in ("1", "-1")
        for model in ("mlp", "mlpp")
        for seed in (0, 1)
    ]
    found = problems(composer, *cells)
    assert [[cell[0] for cell in where] for where in found.values()] == [
        ["strength=1", "strength=1", "strength=-1", "strength=-1"],
        ["strength=-1", "strength=-1"],
    ]


def test_seeds_are_checked_once(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    from lit_share.lab.app import config

    prepare = config.prepare
    monkeypatch.setattr(config, "prepare", lambda c: checked.append(c.seed) or prepare(c))
    cells = [(f"seed={seed}", f"data.n_b={n}") for seed in range(5) for n in (20, 50)]
    assert len(set(check_cells(cells, composer, Path("/nowhere")).prints.values())) == 10
    assert checked == [0, 0]


def missing(composer: Composer, *overrides: str) -> CheckedCells:
    return check_cells([overrides], composer, Path("/nowhere"), look_around=True)


def test_what_is_missing_is_no_mistake(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        return None

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("lit_share.lab.app.cells.find_spec", find)
    monkeypatch.setattr("lit_share.lab.data._sources.find_spec", find)
    for override, told in {
        "data.dataset=mnist": 'data.dataset=mnist: .*pip install "lit-share\\[mnist\\]"',
        "data.n_a=100000": 'data: .*"digits" has 1797 examples: make one of them smaller',
        "logger=tensorboard": 'logger.tensorboard: .*pip install "lit-share\\[tensorboard\\]"',
        "trainer=gpu": "trainer.accelerator=gpu: there is no GPU",
        "ckpt_path=/nowhere/last.ckpt": "ckpt_path=/nowhere/last.ckpt: there is no such file",
    }.items():
        found = missing(composer, override)
        (text,) = found.missing
        assert re.search(told, text), text
        assert found.problems == {}


def test_other_applications_are_only_composed(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [("retrain.similarity=2",), ("sed=1",)]
    assert len(problems(composer, *cells)) == 2
    store = ConfigStore.instance()
    theirs = {name: node for name, node in store.repo.items() if name != "train_schema.yaml"}
    composer.compose(cells[0])
    monkeypatch.setattr(store, "repo", theirs)
    assert list(problems(composer, cells[0])) == []
