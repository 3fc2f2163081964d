"""Penalties that LightningCLI makes of YAML."""

from __future__ import annotations

from functools import partial

import pytest
import yaml

from lit_share import RECIPES, OwlWeights, Regularize

from ._modules import Two, loader

pytest.importorskip("jsonargparse")


class Plain(Two):
    def __init__(self):
        super().__init__()

    def train_dataloader(self):
        return loader()


QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def penalty_of(tmp_path, monkeypatch):
    """Makes of YAML the penalty that LightningCLI trained with."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what Lightning uses
    monkeypatch.setattr("sys.argv", ["main.py", "fit", "--config", str(tmp_path / "config.yaml")])
    return partial(_penalty_of, tmp_path / "config.yaml")


def _penalty_of(config, text):
    from lightning.pytorch.cli import LightningCLI

    arguments = {"strength": 0.1, "ties": ["*.weight"]} | yaml.safe_load(text)
    regularize = {"class_path": "lit_share.Regularize", "init_args": arguments}
    config.write_text(yaml.safe_dump({"trainer": {**QUIET, "callbacks": [regularize]}}))
    cli = LightningCLI(Plain, seed_everything_default=False, save_config_callback=None)
    (made,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, Regularize))
    assert cli.model.steps_taken > 0
    return made.penalty


@pytest.mark.parametrize("name", ["l2", "growl"])
def test_a_recipe(name, penalty_of):
    assert penalty_of(f"penalty: {name}") is RECIPES[name].penalty


@pytest.mark.parametrize(
    "text",
    [
        (
            "penalty: {norm: owl, groups: input, center: zero, "
            "weights: {lambda1: 1.0, lambda2: 0.05, fraction: 0.5}}"
        ),
        """
        penalty:
          class_path: lit_share.Penalty
          init_args:
            norm: owl
            groups: input
            center: zero
            weights:
              class_path: lit_share.OwlWeights
              init_args: {lambda1: 1.0, lambda2: 0.05, fraction: 0.5}
        """,
    ],
    ids=["short", "class paths"],
)
def test_growl(text, penalty_of):
    penalty = penalty_of(text)
    assert (penalty.norm, penalty.groups, penalty.center) == ("owl", "input", "zero")
    assert penalty.weights == OwlWeights(lambda1=1.0, lambda2=0.05, fraction=0.5)
