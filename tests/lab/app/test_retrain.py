"""After a penalty that makes rows zero, rows are tied and trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_share.lab.app.config import ConfigError, prepare
from lit_share.lab.app.run import run

from .conftest import Compose

FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("regularizer", ["growl", "group_lasso", "lasso", "oscar", "[growl,l2]"])
def test_rows_are_tied_and_trained_again(
    compose_config: Compose, tmp_path: Path, regularizer: str
) -> None:
    run(
        compose_config(*FAST, f"regularizer={regularizer}", "strength=20", "model.net.hidden=[8]"),
        tmp_path,
        [],
    )
    result = result_of(tmp_path)
    assert [row["name"] for row in result["rows"]] == [
        f"{name}.net.{layer}.weight" for name in "ab" for layer in ("trunk.linear0", "head")
    ]
    assert result["sharing"]["bytes"] > 0
    saved = torch.load(result["checkpoint"], weights_only=True)
    assert Path(result["checkpoint"]).parent.name == "retrained"
    assert saved["epoch"] == 0, "a second training"
    assert not any("Regularize" in key for key in saved["callbacks"])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("regularizer", ["correlated_inputs", "[correlated_inputs,growl]"])
def test_rows_of_correlated_inputs_are_tied_from_the_start(
    compose_config: Compose, tmp_path: Path, regularizer: str
) -> None:
    overrides = f"regularizer={regularizer}", "regularizer.correlated_inputs.clusters=5"
    config = compose_config("debug=fast", "logger=none", *overrides)
    run(config, tmp_path, [])
    result = result_of(tmp_path)
    first, second, _, *_ = result["rows"]
    assert (first["rows"], first["clusters"], first["replaced"]) == (64, 5, True)
    # What hidden layers read depends on weights that are trained.
    assert not second["replaced"]
    saved = torch.load(result["checkpoint"], weights_only=True)
    assert saved["state_dict"]["a.net.trunk.linear0.weight"].shape == (64, 5)
    assert result["sharing"]["unique"] < 0.7 * result["sharing"]["total"]
    # Goes on from its checkpoint, and reads no data to find clusters again.
    more = compose_config(
        "debug=fast",
        "logger=none",
        *overrides,
        "trainer.max_epochs=2",
        f"ckpt_path={result['checkpoint']}",
        output_dir=tmp_path / "more",
    )
    run(more, tmp_path / "more", [])
    assert result_of(tmp_path / "more")["rows"] == result["rows"]


@pytest.mark.parametrize(
    "regularizer", ["none", "l2", "soft_tie", "joint_lasso", "hard_tie", "[hard_tie,growl]"]
)
def test_other_strategies_have_one_phase(
    compose_config: Compose, tmp_path: Path, regularizer: str
) -> None:
    run(compose_config(*FAST, f"regularizer={regularizer}"), tmp_path, [])
    assert result_of(tmp_path)["rows"] is None


def test_never_and_always(compose_config: Compose, tmp_path: Path) -> None:
    for regularizer, when in (("growl", "never"), ("none", "always")):
        folder = tmp_path / when
        run(
            compose_config(
                *FAST, f"regularizer={regularizer}", f"retrain.when={when}", output_dir=folder
            ),
            folder,
            [],
        )
        assert (result_of(folder)["rows"] is None) == (when == "never")


def test_epochs_and_learning_rate_of_its_own(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = Trainer.fit

    def recorded(self: Trainer, model: LightningModule, **options: object) -> None:
        fit(self, model, **options)  # type: ignore[arg-type]
        (optimizer,) = self.optimizers
        fits.append((self.current_epoch, {group["lr"] for group in optimizer.param_groups}))

    monkeypatch.setattr(Trainer, "fit", recorded)
    run(
        compose_config(*FAST, "regularizer=growl", "retrain.max_epochs=2", "retrain.lr=0.0005"),
        tmp_path,
        [],
    )
    assert fits == [(1, {0.002}), (2, {0.0005})]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrain.when=sometimes", "sometimes"),
        ("retrain.similarty=0.5", "similarty"),
        ("retrain.lr=fast", "fast"),
        ("retrain.similarity=2", r"retrain\.similarity=2\.0: write a number in \(0, 1\]"),
        ("retrain.similarity=0", r"retrain\.similarity=0\.0: write a number in \(0, 1\]"),
        ("retrain.lr=-1", r"retrain\.lr=-1\.0: write a positive number"),
        ("retrain.lr=0", r"retrain\.lr=0\.0: write a positive number"),
        ("retrain.lr=nan", r"retrain\.lr=nan: write a positive number"),
        ("retrain.lr=inf", r"retrain\.lr=inf: write a positive number"),
    ],
)
def test_wrong_values(compose_config: Compose, override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        prepare(compose_config(*FAST, override))


def test_a_checkpoint_of_another_second_phase(compose_config: Compose, tmp_path: Path) -> None:
    run(compose_config(*FAST, "regularizer=growl"), tmp_path, [])
    changed = compose_config(
        *FAST,
        "regularizer=growl",
        "retrain.similarity=0.9",
        f"ckpt_path={tmp_path}/checkpoints/last.ckpt",
    )
    with pytest.raises(ConfigError, match="retrain"):
        run(changed, tmp_path, [])
