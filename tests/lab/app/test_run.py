"""A run leaves what it promises, also when it fails."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from omegaconf import open_dict

from lit_share.files import locked
from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._report import table_of
from lit_share.lab.app.config import prepare, strategy
from lit_share.lab.app.run import run
from lit_share.lab.app.tracking import resume_in_wandb
from lit_share.lab.results import read_results
from lit_share.ties import TieError

from .conftest import Compose

FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def test_result_holds_what_was_measured(compose_config: Compose, tmp_path: Path) -> None:
    objective = run(compose_config(*FAST, "seed=3"), tmp_path, ["seed=3"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert objective == result["validation"]["b/val/acc"]
    assert result["strategy"] == "soft_tie"
    assert result["seed"] == 3
    assert result["overrides"] == ["seed=3"]
    assert result["sharing"]["total"] == 2 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)
    assert result["sharing"]["penalty"] > 0.0
    saved = torch.load(result["checkpoint"], weights_only=True)
    assert "a.net.trunk.linear0.weight" in saved["state_dict"]


def test_tested_model_is_the_best_checkpoint(compose_config: Compose, tmp_path: Path) -> None:
    config = compose_config(*FAST, "trainer.max_epochs=3", "regularizer=soft_tie")
    run(config, tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    weights = torch.load(result["checkpoint"], weights_only=True)["state_dict"]
    names = [name.removeprefix("a.") for name in weights if name.startswith("a.net.")]
    pairs = [(weights[f"a.{name}"].double(), weights[f"b.{name}"].double()) for name in names]
    between = sum(float((a - b).square().sum()) for a, b in pairs)
    size = sum(float(a.square().sum() + b.square().sum()) for a, b in pairs)
    assert result["sharing"]["distance"] == pytest.approx((between / size) ** 0.5, rel=1e-6)
    assert result["sharing"]["penalty"] == pytest.approx(
        result["strength"] * 0.5 * between, rel=1e-4
    )


def test_a_second_run_in_a_folder_replaces_the_first(
    compose_config: Compose, tmp_path: Path
) -> None:
    run(compose_config(*FAST, "regularizer=none", "trainer.max_epochs=2"), tmp_path, [])
    run(compose_config(*FAST, "regularizer=hard_tie", "seed=1"), tmp_path, [])
    files = {path.name: path for path in (tmp_path / "checkpoints").iterdir()}
    assert files.keys() == {"best.ckpt", "last.ckpt"}
    for name in ("best.ckpt", "last.ckpt"):
        saved = torch.load(files[name], weights_only=True)
        assert saved["epoch"] == 0
        assert any("Share" in key for key in saved["callbacks"])
        assert "KeepRandomState" in saved["callbacks"]
    go_on = f"ckpt_path={tmp_path}/checkpoints/last.ckpt"
    with pytest.raises(ConfigError, match=r"regularizer: .*Share"):
        run(compose_config(*FAST, "regularizer=none", "seed=1", go_on), tmp_path, [])


@pytest.mark.parametrize("problem", ["ties.patterns=[nothing.*]", "dry_run=true"])
def test_a_run_that_does_not_train_replaces_nothing(
    compose_config: Compose, tmp_path: Path, problem: str
) -> None:
    files = (tmp_path / "checkpoints" / "last.ckpt", tmp_path / "config.yaml")
    files[0].parent.mkdir()
    for file in files:
        file.write_text("of another")
    with suppress(ValueError):
        run(compose_config(*FAST, problem), tmp_path, [])
    assert [file.read_text() for file in files] == ["of another"] * 2


def test_two_runs_in_a_folder_at_once(
    compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path, "a run"), pytest.raises(SystemExit) as error:
        run(compose_config(*FAST), tmp_path, [])
    assert error.value.code == 2
    assert f"{tmp_path}: a run works there since" in capsys.readouterr().err
    with locked(tmp_path, "a run"):
        run(compose_config(*FAST, "dry_run=true"), tmp_path, [])
    assert not (tmp_path / "result.json").exists()


def test_checkpoints_without_states(compose_config: Compose, tmp_path: Path) -> None:
    config = compose_config(*FAST, "+callbacks.checkpoint.save_weights_only=true")
    run(config, tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["sharing"]["penalty"] > 0.0


def test_hard_sharing_stores_one_copy(compose_config: Compose, tmp_path: Path) -> None:
    run(compose_config(*FAST, "regularizer=hard_tie"), tmp_path, [])
    sharing = json.loads((tmp_path / "result.json").read_text())["sharing"]
    assert sharing["compression"] == 2.0
    assert sharing["distance"] == 0.0


def test_clusters_of_three_models(compose_config: Compose, tmp_path: Path) -> None:
    """The table in the terminal counts them."""
    run(compose_config(*FAST, "data=sites", "ties=sites"), tmp_path, [])
    (result,) = read_results([tmp_path])
    ties = list(result.clusters)
    assert all(list(labels.values()) == [0, 1, 2] for labels in result.clusters.values())
    assert all(name.startswith("abc"[i]) for i, name in enumerate(result.clusters[ties[0]]))
    counts = f"{3 * len(ties)} of {3 * len(ties)} members"
    assert counts in list(table_of(result).columns[1].cells)
    one = {tie: dict.fromkeys(labels, 0) for tie, labels in result.clusters.items()}
    assert f"{len(ties)} of {3 * len(ties)} members" in list(
        table_of(replace(result, clusters=one)).columns[1].cells
    )


FOUND = (
    *("data=six_sites", "ties=six_sites", "regularizer=found_groups", "logger=none"),
    *("callbacks=quiet", "trainer.max_epochs=5"),
    *("regularizer.share.epoch=4", "regularizer.cluster_tie.schedule.begin=1"),
    *("strength=1000.0", "model.net.hidden=[]", "objective=a/val/acc"),
)


def test_the_best_checkpoint_may_be_from_before_members_are_shared(
    compose_config: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What found_groups with a large strength does: its groups are worse than separate models."""
    with caplog.at_level("INFO"):
        run(compose_config(*FOUND), tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["strategy"] == "found_groups"
    saved = torch.load(result["checkpoint"], weights_only=True)
    assert saved["epoch"] < 4
    said = f"is of epoch {saved['epoch']}, before regularizer.share.epoch=4: its members are not"
    assert said in caplog.text
    weights = saved["state_dict"]["a.net.head.weight"], saved["state_dict"]["f.net.head.weight"]
    assert not torch.equal(*weights)
    assert result["clusters"]["head"] == {f"{n}.net.head.weight": i for i, n in enumerate("abcdef")}
    printed = capsys.readouterr().out
    assert printed.count("Tie plan") == 1
    assert "cluster_tie, share" in printed


def test_same_seed_same_numbers(compose_config: Compose, tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        run(compose_config(*FAST, output_dir=tmp_path / name), tmp_path / name, [])
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["sharing"] == results[1]["sharing"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_goes_on_from_a_checkpoint(compose_config: Compose, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(compose_config(*FAST, "trainer.max_epochs=2", output_dir=whole), whole, [])
    run(compose_config(*FAST, "trainer.max_epochs=1", output_dir=parts), parts, [])
    go_on = ("trainer.max_epochs=2", f"ckpt_path={parts}/checkpoints/last.ckpt")
    run(compose_config(*FAST, *go_on, output_dir=parts), parts, [])
    whole, resumed = (json.loads((path / "result.json").read_text()) for path in (whole, parts))
    assert resumed["test"] == whole["test"]


def test_strength_is_every_regularizers_own(compose_config: Compose) -> None:
    prepared = prepare(compose_config("regularizer=[soft_tie,l2]", "strength=0.25"))
    assert [node.strength for node in prepared.regularizer.values()] == [0.25, 0.25]


def test_strengths_that_are_learned(compose_config: Compose, tmp_path: Path) -> None:
    """They are a strategy of their own, and their course is in the result."""
    config = compose_config(
        *FAST, "regularizer=[soft_tie,l2]", "strength={learned:{start:0.02,per:all,every:2}}",
        "trainer.max_epochs=2", "trainer.limit_train_batches=6",
    )  # fmt: skip
    run(config, tmp_path, [])
    (result,) = read_results([tmp_path])
    assert result.strategy == "soft_tie+l2 learned"
    assert result.strength is None
    assert result.strengths.keys() == {"soft_tie: all", "l2: all"}
    for course in result.strengths.values():
        assert len(course) == 3
        assert course[0] == 0.02 not in course[1:]


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        (
            "learnt",
            r"strength=learnt: write a number, learned or path, or .*did you mean 'learned'",
        ),
        (
            "{learned:0.1}",
            r"strength=\{'learned': 0.1\}: write a number, learned or path, or such a name",
        ),
        ("{learned:{begin:1}}", r"strength: .*unexpected keyword argument 'begin'"),
        ("{learned:{every:0}}", r"strength: Learned\(every=0\): write a whole number"),
    ],
)
def test_wrong_strengths(compose_config: Compose, strength: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(compose_config(f"strength={strength}"))


def test_strength_without_a_regularizer_that_has_one_is_said(
    compose_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(compose_config(*FAST, "regularizer=hard_tie", "strength=0.5"), tmp_path, [])
    assert "strength=0.5 has no effect: hard_tie has no strength" in caplog.text


def test_failed_run_says_so(compose_config: Compose, tmp_path: Path) -> None:
    config = compose_config(
        "debug=fast", "callbacks=quiet", "ties.patterns=[a.nothing.*,b.net.*]", "logger=wandb"
    )
    with pytest.raises(ValueError, match=r"a\.nothing"):
        run(config, tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"
    assert "a.nothing.*" in result["error"]
    assert wandb.run is None


def test_result_is_there_though_nobody_reads_the_table(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lit_share.lab.app._report.table_of", lambda _: sys.exit(1)
    )  # as Rich does for `train.py | head`
    with pytest.raises(SystemExit):
        run(compose_config(*FAST), tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "finished"


def test_every_run_is_a_wandb_run_of_its_own(compose_config: Compose, tmp_path: Path) -> None:
    before = os.environ.get("WANDB_MODE")
    for name in ("first", "second"):
        config = compose_config(
            "debug=fast", "callbacks=quiet", "logger=wandb", output_dir=tmp_path / name
        )
        run(config, tmp_path / name, [])
        assert wandb.run is None
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 2
    assert os.environ.get("WANDB_MODE") == before
    for table in ("ties", "result"):
        assert (
            len(list(tmp_path.glob(f"*/wandb/offline-run-*/files/media/table/{table}_*.json"))) == 2
        )
    heatmaps = list(tmp_path.glob("*/wandb/offline-run-*/files/media/plotly/sharing/*.json"))
    assert len(heatmaps) == 2


def test_csv_has_the_documented_names(compose_config: Compose, tmp_path: Path) -> None:
    run(compose_config("debug=fast", "callbacks=quiet", "logger=csv"), tmp_path, [])
    header = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    expected = {
        "a/val/acc",
        "b/test/acc",
        "sharing/penalty",
        "sharing/distance",
        "sharing/tied",
        "sharing/clusters",
        "sharing/unique",
    }
    assert expected <= set(header)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_a_checkpoint_of_another_experiment_is_refused(
    compose_config: Compose, tmp_path: Path
) -> None:
    run(compose_config(*FAST, "regularizer=layer_tie"), tmp_path, [])
    go_on = f"ckpt_path={tmp_path}/checkpoints/last.ckpt"
    with pytest.raises(
        ValueError, match="another experiment; repeat its overrides:\n  regularizer: "
    ):
        run(compose_config(*FAST, go_on), tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["strategy"] == "layer_tie"


def test_misspelt_objective_is_named(compose_config: Compose, tmp_path: Path) -> None:
    config = compose_config(*FAST, "objective=b/val/accuracy", "~callbacks.checkpoint")
    with pytest.raises(ValueError, match=r"objective=b/val/accuracy is not among.*b/val/acc"):
        run(config, tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"


def test_shared_parameters_are_counted_once_in_the_hyperparameters(
    compose_config: Compose, tmp_path: Path
) -> None:
    run(
        compose_config("debug=fast", "callbacks=quiet", "logger=csv", "regularizer=hard_tie"),
        tmp_path,
        [],
    )
    hparams = (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()
    assert "parameters/unique: 8970\n" in hparams
    assert "parameters/total: 17940\n" in hparams


def test_a_strength_in_place_of_a_recipe_is_named(compose_config: Compose) -> None:
    with pytest.raises(ValueError, match=r"regularizer.strength: expected a mapping"):
        prepare(compose_config("+regularizer.strength=0.1"))


@pytest.mark.parametrize(
    ("offline", "left", "goes_on_in"),
    [
        ("false", ["run-20260101_000000-old", "run-20260102_000000-new"], "new"),
        ("true", ["run-20260101_000000-old"], None),
        ("false", ["offline-run-20260101_000000-old"], None),
        ("false", [], None),
    ],
)
def test_what_goes_on_has_one_wandb_run(
    compose_config: Compose, tmp_path: Path, offline: str, left: list[str], goes_on_in: str | None
) -> None:
    options = prepare(
        compose_config("logger=wandb", f"logger.wandb.offline={offline}")
    ).logger.wandb
    for name in left:
        (tmp_path / "wandb" / name).mkdir(parents=True)
    resume_in_wandb(options, tmp_path)
    assert options.get("id") == goes_on_in
    assert (
        WandbLogger(**{key: value for key, value in options.items() if key != "_target_"})._id
        == goes_on_in
    )


def test_ties_of_another_model_are_named_whatever_the_strategy(
    compose_config: Compose, tmp_path: Path
) -> None:
    another = ("model=local", "data=placed", "objective=val/acc")
    with pytest.raises(
        TieError,
        match=r"(?s)'a.net.\*' matches no .* of ties=all: write your own with ties.patterns",
    ):
        run(compose_config(*FAST, *another, "regularizer=none"), tmp_path, [])
    with pytest.raises(TieError) as caught:
        run(
            compose_config(*FAST, *another, "ties.patterns=[x.*]"),
            tmp_path,
            ["ties.patterns=[x.*]"],
        )
    assert "ties=all" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("regularizer=found_groups", "regularizer.share.epoch=4"), "found_groups"),
        (("regularizer=found_groups", "regularizer.share=null"), "cluster_tie"),
        (("regularizer=found_groups", "~regularizer.cluster_tie"), "share"),
        (("regularizer=[growl,l2]",), "growl+l2"),
        (("regularizer=soft_tie",), "soft_tie"),
        (("regularizer=none",), "none"),
        (("regularizer=soft_tie", "regularizer.soft_tie=null"), "none"),
    ],
)
def test_a_strategy_has_the_name_of_its_config(
    compose_config: Compose, overrides: tuple[str, ...], name: str
) -> None:
    config = compose_config("data=six_sites", "ties=six_sites", *overrides)
    with open_dict(config.regularizer):
        for key in [key for key, node in config.regularizer.items() if node is None]:
            del config.regularizer[key]
    assert strategy(config) == name


def test_two_equal_regularizers_are_refused_by_their_names(
    compose_config: Compose, tmp_path: Path
) -> None:
    config = compose_config(*FAST, "regularizer=soft_tie")
    with open_dict(config.regularizer):
        config.regularizer.second = {**config.regularizer.soft_tie, "strength": 0.5}
    with pytest.raises(
        ValueError, match=r"regularizer\.soft_tie and regularizer\.second are the same but for"
    ):
        run(config, tmp_path, [])
