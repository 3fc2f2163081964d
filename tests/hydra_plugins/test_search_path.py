"""`regularizer=soft_tie` and `align=weights` where an application knows nothing of lit_share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import lit_share.conf

from .._programs import run

RECIPES = sorted(
    path.stem for path in (Path(lit_share.conf.__file__).parent / "regularizer").glob("*.yaml")
)

# What an application that does not use lit_share's own code has, and it is started outside of the
# source tree.
APP = """
    import json, os, sys
    import hydra
    from omegaconf import OmegaConf

    @hydra.main(version_base="1.3", config_path="conf", config_name="config")
    def main(config):
        modules = {name.split(".")[0] for name in sys.modules}
        content = {"config": OmegaConf.to_container(config), "modules": sorted(modules)}
        if os.environ.get("BUILD"):
            nodes = [node for node in config[os.environ["BUILD"]].values() if node]
            callbacks = [hydra.utils.instantiate(node) for node in nodes]
            content["built"] = [repr(getattr(callback, "ties", None)) for callback in callbacks]
            content["types"] = [type(callback).__name__ for callback in callbacks]
        print("RESULT", json.dumps(content))

    main()
"""


# Without callbacks of its own, an application is not known to read any.
OWN = "callbacks: {own: null}\n"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "app.py").write_text(dedent(APP))
    (tmp_path / "conf" / "config.yaml").write_text(f"lr: 0.1\n{OWN}")
    return tmp_path


def start(app: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["app.py", *arguments, "hydra.run.dir=out", "hydra.sweep.dir=out"]
    # Only installed modules may be found, so PYTHONPATH, PYTHONSAFEPATH and the like are not
    # inherited.
    env = {"PATH": "", "HOME": str(app), **environment}
    # What builds callbacks imports Lightning; all other programs are tested for not doing so.
    if "BUILD" in environment:
        return run(command, cwd=app, env=env)
    command.insert(0, sys.executable)
    return subprocess.run(command, cwd=app, env=env, capture_output=True, text=True, timeout=120)


def chosen(result: dict[str, Any]) -> list[str]:
    """The recipes in the config."""
    return [name for name in result["config"]["callbacks"] if name != "own"]


def results(app: Path, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    done = start(app, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [
        json.loads(line.removeprefix("RESULT "))
        for line in done.stdout.splitlines()
        if line.startswith("RESULT ")
    ]


def test_on_the_command_line(app: Path) -> None:
    (result,) = results(app, "+regularizer=growl")
    assert result["config"]["callbacks"]["growl"]["penalty"]["norm"] == "owl"
    assert result["config"]["lr"] == 0.1


def test_in_the_defaults_list(app: Path) -> None:
    config = "defaults: [regularizer: [growl, l2], _self_]\n" + OWN
    (app / "conf" / "config.yaml").write_text(config)
    assert chosen(results(app)[0]) == ["growl", "l2"]
    assert chosen(results(app, "regularizer=lasso")[0]) == ["lasso"]


def test_under_a_key_of_its_own(app: Path) -> None:
    config = "defaults: [regularizer@regularizer: [growl, l2], _self_]\n"
    (app / "conf" / "config.yaml").write_text(config)
    assert list(results(app)[0]["config"]["regularizer"]) == ["growl", "l2"]
    assert list(results(app, "regularizer=lasso")[0]["config"]["regularizer"]) == ["lasso"]
    (result,) = results(app, "regularizer=none", "+align@align=weights")
    assert result["config"] == {"regularizer": {}, "align": result["config"]["align"]}


def test_nothing_heavy_is_imported_by_being_installed(app: Path) -> None:
    (result,) = results(app, "+regularizer=soft_tie")
    assert {"lit_share", "hydra_plugins"} <= set(result["modules"])
    heavy = {
        "torch",
        "lightning",
        "wandb",
        "numpy",
        "scipy",
        "sklearn",
        "plotly",
        "pydantic",
        "rich",
        "torchmetrics",
    }
    assert heavy.isdisjoint(result["modules"])


def test_multirun(app: Path) -> None:
    found = [chosen(result) for result in results(app, "-m", "+regularizer=soft_tie,l2,none")]
    assert found == [["soft_tie"], ["l2"], []]


def test_multirun_of_all(app: Path) -> None:
    found = results(app, "-m", "+regularizer=glob(*)")
    assert sorted(next(iter(chosen(result)), "none") for result in found) == RECIPES
    assert len(RECIPES) == 21
    found = results(app, "-m", "+regularizer=glob(l2*)")
    assert sorted(chosen(result) for result in found) == [["l2"], ["l2_sp"]]


def test_only_the_callbacks_are_visible(app: Path) -> None:
    listed = (
        start(app, "--help").stdout.split("== Configuration groups ==")[1].split("== Config ==")[0]
    )
    groups = [line.split(":")[0] for line in listed.splitlines() if ": " in line]
    assert groups == ["align", "regularizer"]
    for other in ("ties", "model", "data", "loggers", "trainer"):
        assert (
            results(app, f"+{other}=mlp")[0]["config"][other] == "mlp"
        )  # which is what Hydra makes of unknown groups


def test_own_configs_of_the_application_win(app: Path) -> None:
    (app / "conf" / "regularizer").mkdir()
    (app / "conf" / "regularizer" / "l2.yaml").write_text("mine: true\n")
    assert results(app, "+regularizer=l2")[0]["config"]["regularizer"] == {"mine": True}
    assert chosen(results(app, "+regularizer=lasso")[0]) == ["lasso"]


@pytest.mark.slow
def test_what_is_tied_is_the_key_ties_patterns(app: Path) -> None:
    (result,) = results(
        app, "+regularizer=soft_tie", "+ties.patterns=[north.*,south.*]", BUILD="callbacks"
    )
    assert result["built"] == ["Ties('north.*', 'south.*')"]
    (result,) = results(app, "+regularizer=soft_tie", "+ties.patterns=north.*", BUILD="callbacks")
    assert result["built"] == ["Ties('north.*')"]  # a text is one pattern
    (app / "conf" / "config.yaml").write_text(
        "ties: {patterns: ['a.*', 'b.*'], exclude: ['*.bias']}\n" + OWN
    )
    (result,) = results(app, "+regularizer=[soft_tie,joint_lasso]", BUILD="callbacks")
    assert result["built"] == [
        "Ties('a.*', 'b.*', exclude=['*.bias'])",
        "Ties('a.*', 'b.*', exclude=['*.bias'], min_ndim=2)",
    ]


@pytest.mark.slow
def test_what_is_tied_is_asked_for(app: Path) -> None:
    done = start(app, "+regularizer=soft_tie", BUILD="callbacks")
    assert done.returncode == 1
    assert "Ties needs at least one pattern" in done.stderr
    assert "in a config ties.patterns=[a.net.*,b.net.*]" in done.stderr
    (result,) = results(app, "+regularizer=l2", BUILD="callbacks")  # of all weights
    assert result["built"] == ["Ties('*weight', min_ndim=2)"]


@pytest.mark.slow
def test_alignment_before_the_regularizers(app: Path) -> None:
    (result,) = results(
        app,
        "+align@callbacks=activations",
        "+regularizer@callbacks=soft_tie",
        "+ties.patterns=[north.*,south.*]",
        BUILD="callbacks",
    )
    assert result["types"] == ["Align", "Regularize"]
    assert result["built"] == ["Ties('north.*', 'south.*')"] * 2
    (result,) = results(app, "+align=none")
    assert chosen(result) == []


@pytest.mark.slow
def test_among_the_callbacks_that_an_application_builds_anyway(app: Path) -> None:
    (app / "conf" / "config.yaml").write_text(
        "callbacks: {bar: {_target_: lightning.pytorch.callbacks.TQDMProgressBar}}\nties: "
        "{patterns: ['a.*', 'b.*']}\n"
    )
    (result,) = results(app, "+regularizer@callbacks=[soft_tie,hard_tie]", BUILD="callbacks")
    assert result["types"] == ["TQDMProgressBar", "Regularize", "Share"]


CALLBACKS = [
    *(f"regularizer/{recipe}" for recipe in RECIPES if recipe != "none"),
    "align/weights",
    "align/activations",
]


@pytest.mark.parametrize("name", CALLBACKS)
def test_no_config_reads_anything_else_of_the_application(name: str) -> None:
    """Our own application has more keys, which a config must not come to rely on."""
    text = (Path(lit_share.conf.__file__).parent / f"{name}.yaml").read_text()
    for key in ("patterns", "exclude,[]", "types,[]", "min_ndim,0"):
        text = text.replace(f"${{oc.select:ties.{key}}}", "")
    assert "${" not in text
