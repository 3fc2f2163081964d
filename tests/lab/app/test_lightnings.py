"""`train.py` takes models of both Lightnings, whatever the configs name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from lit_share.lab.app._lightnings import in_package
from lit_share.lab.app._processes import spawned
from lit_share.lab.app.build import build
from lit_share.lab.app.config import prepare
from lit_share.lab.app.run import run
from lit_share.lightnings import is_a, package_of

from ._sites import MODULES, PACKAGES
from .conftest import Compose

FAST = ("ties.patterns=[old.net.*,new.net.*]", "objective=new/val/loss", "mode=min")
SITES = "tests.lab.app._sites"


def of_sites(config: DictConfig, model: dict[str, Any], data: dict[str, Any]) -> DictConfig:
    config.model = {"_target_": f"{SITES}.pair", **model}
    config.data = {"_target_": f"{SITES}.data", **data}
    return config


@pytest.mark.parametrize("package", PACKAGES)
def test_a_pair_of_either_package_is_trained(
    compose_config: Compose, tmp_path: Path, package: str
) -> None:
    config = compose_config(*FAST, "trainer.max_epochs=1", "logger=csv", "callbacks=means")
    run(of_sites(config, {"package": package}, {"package": package}), tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "finished"
    assert {"new/test/loss", "old/test/loss", "mean/test/loss"} <= result["test"].keys()
    assert torch.load(result["checkpoint"], weights_only=True)["epoch"] == 0
    assert "new/val/loss" in next(tmp_path.glob("csv/*/metrics.csv")).read_text()


def test_callbacks_and_loggers_are_of_the_models_package(compose_config: Compose) -> None:
    config = compose_config(*FAST, "logger=csv", "+trainer.strategy=ddp_spawn")
    older = {"package": "pytorch_lightning"}
    job = build(prepare(of_sites(config, older, older)))
    callbacks: list[Any] = job.trainer.callbacks  # type: ignore[attr-defined]
    for each in (job.trainer, job.trainer.strategy, *job.trainer.loggers):
        assert package_of(each) == "pytorch_lightning"
    for name, number in {"ModelCheckpoint": 2, "RichProgressBar": 1}.items():
        own = [package_of(each) for each in callbacks if is_a(each, name)]
        assert own == ["pytorch_lightning"] * number


@pytest.mark.parametrize("package", PACKAGES)
def test_a_spawned_strategy_is_sent_to_its_processes(package: str) -> None:
    sent = pickle.loads(pickle.dumps(spawned(MODULES[package]())))
    assert package_of(sent) == package
    # It tears itself down there, not the one that it was copied from.
    assert sent.teardown.args == (sent,)


def test_targets_are_translated_at_any_depth_in_both_directions() -> None:
    node = OmegaConf.create(
        {"_target_": "pytorch_lightning.X", "a": [{"_target_": "lightning.pytorch.Y", "n": None}]}
    )
    assert in_package(node, "lightning.pytorch") == {
        "_target_": "lightning.pytorch.X",
        "a": [{"_target_": "lightning.pytorch.Y", "n": None}],
    }
    own = {"_target_": "pytorch_lightning_bolts.X"}
    assert in_package(OmegaConf.create(own), "lightning.pytorch") == own


def test_what_is_of_the_other_package_is_named(compose_config: Compose) -> None:
    older = {"package": "pytorch_lightning"}
    config = of_sites(compose_config(*FAST), older, {})
    with pytest.raises(TypeError, match=rf"^data: {SITES}.data is of lightning.pytorch, but the"):
        build(prepare(config))
    config = of_sites(compose_config(*FAST), older, older)
    config.trainer._target_ = f"{SITES}.OwnTrainer"
    with pytest.raises(TypeError, match=r"write trainer\._target_= with a subclass of pytorch_li"):
        build(prepare(config))


def test_a_trainer_of_the_project(compose_config: Compose) -> None:
    config = of_sites(compose_config(*FAST), {}, {})
    config.trainer._target_ = f"{SITES}.OwnTrainer"
    assert type(build(prepare(config)).trainer).__name__ == "OwnTrainer"


@pytest.mark.parametrize("target", ["torch.nn.Identity", "builtins.dict"])
def test_a_model_that_is_none_is_named(compose_config: Compose, target: str) -> None:
    config = of_sites(compose_config(*FAST), {}, {})
    config.model = {"_target_": target}
    with pytest.raises(TypeError, match=r"^model: expected a LightningModule, got a (Ident|dict)"):
        build(prepare(config))
