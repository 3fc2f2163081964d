"""The W&B runs of cells, and what W&B prints around results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf

from lit_share.lab.app import tracking
from lit_share.lab.app.tracking import begin_wandb, prepare_wandb, wandb_hint

VARIABLES = ("WANDB_RUN_ID", "WANDB_SILENT", "WANDB_QUIET", "WANDB_MODE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def options(**keywords: object) -> dict[str, object]:
    config = OmegaConf.create(keywords)
    prepare_wandb(config)
    return dict(config)


def test_an_id_of_the_environment_is_that_of_single_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert options(offline=False) == {"offline": False}
    monkeypatch.setattr(tracking, "sweep_name", lambda: "sweep")
    first, second = (options(offline=False)["id"] for _ in range(2))
    assert len({"abc", first, second}) == 3
    assert options(offline=False, id="mine")["id"] == "mine"


@pytest.mark.parametrize("variable", ["WANDB_SILENT", "WANDB_QUIET"])
def test_offline_runs_are_silent_unless_the_user_says(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert options(offline=True)["settings"] == {"silent": True}
    assert options(offline=True, settings={"silent": False})["settings"] == {"silent": False}
    assert "settings" not in options(offline=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert options(offline=False)["settings"] == {"silent": True}
    monkeypatch.setenv(variable, "false")
    assert "settings" not in options(offline=True)


def test_the_hint_names_the_last_run(tmp_path: Path) -> None:
    node = {"settings": {"silent": True}, "save_dir": str(tmp_path / "a run")}
    config = OmegaConf.create({"logger": {"wandb": node}})
    assert wandb_hint(config) is None
    for time in ("1", "2"):
        (tmp_path / "a run" / "wandb" / f"offline-run-{time}-x").mkdir(parents=True)
    folder = tmp_path / "a run" / "wandb" / "offline-run-2-x"
    assert wandb_hint(config) == f"W&B is offline: wandb sync '{folder}' uploads this run"
    assert wandb_hint(OmegaConf.create({"logger": {"wandb": {"offline": False}}})) is None
    assert wandb_hint(OmegaConf.create({"logger": {}})) is None


@pytest.mark.parametrize("anonymous", [None, True])
def test_only_a_user_sets_what_wandb_warns_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anonymous: bool | None
) -> None:
    given: dict[str, object] = {}

    def init(**keywords: object) -> SimpleNamespace:
        given.update(keywords)
        return SimpleNamespace()

    monkeypatch.setattr(wandb, "init", init)
    begin_wandb([WandbLogger(save_dir=tmp_path, offline=True, anonymous=anonymous)])
    assert given.get("anonymous", "unset") == ("allow" if anonymous else "unset")
    assert given["dir"] == str(tmp_path)
