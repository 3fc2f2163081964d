"""`strength=path` of `train.py`: what it is composed to, and what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_share.lab.app._check import ConfigError
from lit_share.lab.app.config import prepare
from lit_share.lab.app.run import run
from lit_share.lab.results import read_results

from .conftest import Compose

FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def node(compose_config: Compose, *overrides: str) -> Any:
    return prepare(compose_config(*overrides)).regularizer.soft_tie.strength


def test_the_first_knot_gets_the_epochs_that_are_left(compose_config: Compose) -> None:
    assert node(compose_config, "strength=path", "trainer.max_epochs=60") == {
        "_target_": "lit_share.Path",
        "monitor": "b/val/acc",
        "mode": "max",
        "first": 30,
    }


def test_keywords(compose_config: Compose) -> None:
    given = "strength={path:{low:0.01,high:2,steps:3,epochs:4,first:8,loss:val/loss}}"
    assert node(compose_config, given, "trainer.max_epochs=20") == {
        "_target_": "lit_share.Path",
        "low": 0.01,
        "high": 2,
        "steps": 3,
        "epochs": 4,
        "first": 8,
        "loss": "val/loss",
    }


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (
            "path",
            r"^strength: a path of 6 .* leaves none of trainer.max_epochs=20 for .* than 30",
        ),
        ("{path:{steps:2,epochs:3,first:4}}", "the path needs trainer.max_epochs=10"),
        ("{path:{low:-1}}", r"strength: Path\(low=-1\)"),
        ("{path:{lo:1}}", "strength: .* unexpected keyword argument 'lo'"),
        ("paths", "did you mean 'path'"),
    ],
)
def test_refusals(compose_config: Compose, strength: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(compose_config(f"strength={strength}", "trainer.max_epochs=20"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["soft_tie", "unit_tie"])
def test_the_chosen_knot_is_tested(compose_config: Compose, tmp_path: Path, recipe: str) -> None:
    strength = "strength={path:{low:0.01,high:100,steps:2,epochs:1}}"
    config = compose_config(*FAST, f"regularizer={recipe}", strength, "trainer.max_epochs=4")
    run(config, tmp_path, [])
    (result,) = read_results([tmp_path])
    assert result.strategy == f"{recipe} path"
    assert result.strength is None
    path = result.strength_path
    assert path is not None
    assert path["score"] == "b/val/acc"
    assert [knot["strength"] for knot in path["knots"]] == [0.0, 0.01, 100.0]
    assert [knot["epoch"] for knot in path["knots"]] == [1, 2, 3]
    chosen = path["knots"][path["chosen"]]
    assert result.checkpoint == chosen["checkpoint"]
    assert torch.load(chosen["checkpoint"], weights_only=True)["epoch"] == chosen["epoch"]
    assert result.validation["b/val/acc"] == pytest.approx(chosen["score"], rel=1e-6)
    assert result.sharing["distance"] == pytest.approx(chosen["distance"], rel=1e-6)
    assert result.tied == pytest.approx(chosen["tied"])
    assert json.loads((tmp_path / "result.json").read_text())["strength_path"] == path
