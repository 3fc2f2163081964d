"""Every config file composes, is accepted by the checks, and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

import lit_share.conf
from lit_share.lab.app._check import ConfigError
from lit_share.lab.app.build import build
from lit_share.lab.app.config import GROUPS, prepare
from lit_share.lab.app.run import run

from .conftest import ROOT, Compose

CONFS = (ROOT / "conf", Path(lit_share.conf.__file__).parent)
# Those of the application, and those that any Hydra application gets.
FILES = {
    path.relative_to(conf).with_suffix(""): path for conf in CONFS for path in conf.glob("*/*.yaml")
}
OPTIONS = sorted(FILES)
# Parts of other options, and a recipe that needs a file; see test_ewc.
PARTS = {Path("model/classifier"), Path("trainer/default"), Path("regularizer/ewc")}
# What needs something that may not be here: a GPU, two processes, or data from elsewhere.
NEEDS = {
    Path("trainer/gpu"): "a GPU",
    Path("trainer/ddp_gpu"): "a GPU",
    Path("trainer/ddp_cpu"): "starts processes; see test_train.py",
    Path("data/fashion_mnist"): "Debian's dataset-fashion-mnist",
    Path("data/mnist"): "the extra [mnist]",
    Path("data/tables"): "files; see test_own_tables.py",
    Path("model/multilabel"): "files; see test_own_tables.py",
}
# What only makes sense with others.
POSITIONS = ("data=placed", "model=local", "ties=positions", "objective=val/acc")
LAYERS = ("data=placed", "model=layers", "ties=layers", "objective=val/acc")
SIX = ("data=six_sites", "ties=six_sites")
# Clusters are stored at a later epoch than that of a fast run.
FOUND = (
    "trainer.max_epochs=3",
    "regularizer.share.epoch=2",
    "regularizer.cluster_tie.schedule.begin=0",
    "strength=100.0",
)
TRANSPOSED = (
    "data=placed",
    "model=autoencoder",
    "ties=transposed",
    "objective=val/mse",
    "mode=min",
)
AGES = (
    "data=diabetes",
    "model=regression",
    "ties=ages",
    "objective=mean/val/loss",
    "mode=min",
)
TOGETHER = {
    Path("data/related"): ("ties=trunk",),
    Path("ties/sites"): ("data=sites",),
    Path("ties/six_sites"): ("data=six_sites",),
    Path("experiment/six_sites"): ("callbacks=means",),
    Path("regularizer/found_groups"): (*SIX, *FOUND),
    Path("regularizer/value_tie"): ("ties.patterns=['a.net.*.weight[...]']",),
    **dict.fromkeys(
        map(Path, ("regularizer/known_groups", "regularizer/known_groups_shared")), SIX
    ),
    **dict.fromkeys(
        map(Path, ("data/diabetes", "model/regression", "model/learner", "ties/ages")), AGES
    ),
    **dict.fromkeys(map(Path, ("model/layers", "ties/layers")), LAYERS),
    **dict.fromkeys(map(Path, ("model/autoencoder", "ties/transposed")), TRANSPOSED),
    **dict.fromkeys(
        map(Path, ("data/placed", "model/local", "ties/positions", "callbacks/shift")), POSITIONS
    ),
}
FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def override(option: Path) -> str:
    group, name = option.parts
    return (
        f"+{group}={name}" if group not in (*GROUPS, "experiment", "debug") else f"{group}={name}"
    )


@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in PARTS], ids=str)
def test_composes_and_passes_the_checks(option: Path, compose_config: Compose) -> None:
    needed = ("data.files={a:a.csv}", "data.targets=[y]") if option == Path("data/tables") else ()
    prepare(compose_config(override(option), *needed))


# Each group's first run is quick to notice what all have in common.
RUNNABLE = [o for o in OPTIONS if o not in PARTS and o not in NEEDS]
FIRST = {option.parent: option for option in reversed(RUNNABLE)}.values()


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[pytest.mark.slow] * (o not in FIRST), id=str(o)) for o in RUNNABLE],
)
def test_runs(option: Path, compose_config: Compose, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="the extra [tensorboard]"
    ) if "tensorboard" in option.parts else None
    others = [o for o in (*FAST, *TOGETHER.get(option, ())) if o.split("=")[0] != option.parts[0]]
    config = compose_config(*others, override(option))
    if option.parts[0] == "logger" and config.logger.get("wandb"):
        config.logger.wandb.save_dir = str(tmp_path)
    run(config, tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "finished"
    # Errors have no upper bound, but those of standardised targets are small.
    most = {"max": 1.0, "min": 3.0}[result["mode"]]
    assert 0.0 <= result["test"][config.objective.replace("val", "test")] <= most


def test_every_recipe_says_in_its_first_line_what_it_means() -> None:
    for option in OPTIONS:
        lines = FILES[option].read_text().splitlines()
        comment = lines[1] if lines[0].startswith("# @package") else lines[0]
        assert comment.startswith("# "), option


def test_recipes_combine(compose_config: Compose, tmp_path: Path) -> None:
    config = compose_config(*FAST, "regularizer=[growl,l2]")
    run(config, tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["strategy"] == "growl+l2"


def test_ewc_needs_the_precision_of_an_old_task(compose_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.ewc\.precision: mandatory"):
        prepare(compose_config("regularizer=ewc"))
    model = build(prepare(compose_config(*FAST))).model
    precision = {name: weight.detach().square() + 1.0 for name, weight in model.named_parameters()}
    save_file(precision, tmp_path / "fisher.safetensors")
    given = f"regularizer.ewc.precision={tmp_path / 'fisher.safetensors'}"
    run(compose_config(*FAST, "regularizer=ewc", given), tmp_path, [])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["strategy"]) == ("finished", "ewc")


@pytest.mark.parametrize("name", ["growl", "oscar", "group_lasso", "lasso"])
def test_recipes_with_zeros_can_keep_them_and_wait_for_the_epoch(
    name: str, compose_config: Compose, tmp_path: Path
) -> None:
    options = (
        f"regularizer.{name}.every=epoch",
        f"regularizer.{name}.keep_zeros=true",
        "strength=100.0",
    )
    run(compose_config(*FAST, f"regularizer={name}", *options), tmp_path, [])
    assert json.loads((tmp_path / "result.json").read_text())["sharing"]["sparsity"] > 0.3


@pytest.mark.parametrize("by", ["none", "weights", "activations"])
def test_alignment_comes_before_the_regularizers(
    by: str, compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*FAST, f"align={by}", "regularizer=soft_tie", "model.same_init=false")
    trainer = build(prepare(compose_config(*options))).trainer
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    names = [type(callback).__name__ for callback in callbacks]
    if by == "none":
        assert "Align" not in names
    else:
        assert names[:2] == ["Align", "Regularize"]
        assert callbacks[0].by == by
    run(compose_config(*options), tmp_path, [])
    # The printed plan does not ask for what will be done.
    assert ("unrelated weights" in capsys.readouterr().out) == (by == "none")
