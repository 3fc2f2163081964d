"""Recipes in applications of others: they regularise, or they fail."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.lit_share_unread import RefuseUnread

from .._programs import run
from ..docs._pages import DOCS, ROOT, text
from ._template import write

PATTERNS = "+ties.patterns=[north.*,south.*]"


FOLDERS = ("hydra.run.dir=out", "hydra.sweep.dir=out")


def start(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(["app.py", *arguments, *FOLDERS], cwd=app)


def results(app: Path, *arguments: str) -> list[dict[str, Any]]:
    return printed(start(app, *arguments))


def printed(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return [json.loads(line.removeprefix("RESULT ")) for line in lines]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write(folder, "lightning.pytorch")
    return folder


@pytest.fixture(scope="module")
def untied(template: Path) -> list[list[list[float]]]:
    """The weights without a recipe."""
    (result,) = results(template)
    assert result["callbacks"] == ["ModelCheckpoint", "EarlyStopping"]
    return result["weights"]


def commands() -> list[str]:
    """The commands of the pages, for an application that its user calls app.py."""
    found = []
    for page in (ROOT / "README.md", DOCS / "howto" / "hydra_app.md"):
        lines = " ".join(text(page).split()).replace("`", "\n").splitlines()
        found += [line for line in map(str.strip, lines) if line.startswith("python app.py")]
        found += [line for line in text(page).splitlines() if line.startswith("python app.py ")]
    return sorted({line for line in found if "+" in line})


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_commands_of_the_pages_regularise_the_template(
    command: str, template: Path, untied: list[list[list[float]]]
) -> None:
    made = results(template, *shlex.split(command)[2:])
    assert made
    for result in made:
        own, ours = result["callbacks"][:2], result["callbacks"][2:]
        assert own == ["ModelCheckpoint", "EarlyStopping"]
        assert ours
        assert set(ours) <= {"Regularize", "Share", "Align"}
        assert result["weights"] != untied


@pytest.mark.slow
def test_the_other_package_does_the_same(tmp_path: Path, template: Path) -> None:
    write(tmp_path, "pytorch_lightning")
    chosen = ("+regularizer=hard_tie", PATTERNS)
    # In a process that has imported nothing of either package.
    command = [sys.executable, "app.py", *chosen, *FOLDERS]
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert printed(other) == results(template, *chosen)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_an_application_without_callbacks_stops_at_the_start(
    template: Path, sweep: list[str]
) -> None:
    done = start(template, *sweep, "callbacks=none", "+regularizer=soft_tie", PATTERNS)
    assert done.returncode == 1
    assert "regularizer=soft_tie adds to the config's callbacks" in done.stderr
    assert "write +regularizer@callbacks=soft_tie" in done.stderr
    assert "RESULT" not in done.stdout
    (result,) = results(template, "callbacks=none", "+regularizer@callbacks=soft_tie", PATTERNS)
    assert result["callbacks"] == ["Regularize"]


@pytest.mark.slow
def test_recipes_under_a_key_that_nobody_reads_are_told_of(template: Path) -> None:
    done = start(template, "+regularizer@penalties=soft_tie", PATTERNS)
    assert "penalties.soft_tie had no effect, as the application" in done.stdout


OWN = "callbacks: {stop: {_target_: builtins.dict}}\n"


@pytest.fixture
def compose_app(tmp_path: Path) -> Any:
    """Compose the config of an application with this content, and ask the Hydra callback."""

    def check(content: str, *overrides: str) -> None:
        (tmp_path / "config.yaml").write_text(content)
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            config = compose("config", [*overrides], return_hydra_config=True)
        RefuseUnread().on_job_start(config)

    return check


@pytest.mark.parametrize(
    "chosen", ["regularizer=soft_tie", "regularizer=[l2,growl]", "align=weights"]
)
@pytest.mark.parametrize("content", ["lr: 0.1\n", "callbacks: null\n"])
def test_implicit_choices_need_other_callbacks(chosen: str, content: str, compose_app: Any) -> None:
    with pytest.raises(SystemExit, match=r"write \+\w+@callbacks=") as stopped:
        compose_app(content, f"+{chosen}")
    assert str(stopped.value).startswith(f"{chosen} adds to the config's callbacks")
    compose_app(OWN, f"+{chosen}")


def test_choices_of_the_defaults_list_need_other_callbacks(compose_app: Any) -> None:
    with pytest.raises(SystemExit, match="regularizer=l2 adds"):
        compose_app("defaults: [regularizer: l2, _self_]\n")
    compose_app("defaults: [regularizer: l2, _self_]\n" + OWN)


@pytest.mark.parametrize(
    "chosen", ["+regularizer@callbacks=l2", "+regularizer@regularizer=l2", "+regularizer=none"]
)
def test_explicit_packages_and_nothing_are_accepted(chosen: str, compose_app: Any) -> None:
    compose_app("lr: 0.1\n", chosen)


def test_an_application_that_knows_nothing_of_it_is_left_alone(compose_app: Any) -> None:
    compose_app("regularizer: {name: dropout}\ncallbacks: {}\n")


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_only_jobs_that_ended_well_are_told_of(
    status: JobStatus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", ["+regularizer@x=[l2,growl]"], return_hydra_config=True)
    for module in [name for name in sys.modules if name == "lit_share.callbacks"]:
        monkeypatch.delitem(sys.modules, module)
    ended = JobReturn()
    ended.status = status
    RefuseUnread().on_job_end(config, ended)
    told = [record.getMessage() for record in caplog.records]
    expected = (
        "x.l2 and x.growl had no effect, as the application has instantiated no callback of "
        "lit_share"
    )
    assert told == [expected] * (status is JobStatus.COMPLETED)
