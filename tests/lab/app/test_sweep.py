"""The cells of a sweep keep their folders and what they have done."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from lit_share.files import InUseError, locked
from lit_share.lab.app._check import ConfigError
from lit_share.lab.app._processes import refuse_copies_of_a_sweep
from lit_share.lab.app.config import prepare
from lit_share.lab.app.run import run
from lit_share.lab.errors import UserError
from lit_share.lab.results import write_json
from lit_share.lab.sweeps import (
    CellFailed,
    Contained,
    Progress,
    TrackComparison,
    checkpoint_to_resume,
    fingerprint,
    group_of,
    settle,
    status,
)

from .conftest import Compose

FAST = ("debug=fast", "logger=none", "callbacks=quiet")


def leave(folder: Path, how: str | None = None) -> None:
    """What a cell leaves that has ended, or was cut off after its first checkpoint."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    if how is not None:
        write_json(folder / "result.json", {"status": how})


def test_cells_keep_their_folders_in_any_order(tmp_path: Path) -> None:
    first = settle(tmp_path, {("seed=0", "strength=1"): "x", ("seed=1",): "y"})
    assert list(first.values()) == ["0", "1"]
    again = settle(
        tmp_path, {("seed=2",): "z", ("strength=1", "logger=csv", "seed=0"): "x", ("seed=1",): "y"}
    )
    assert list(again.values()) == ["2", "0", "1"]


def test_cells_that_are_not_asked_for_any_more_are_marked(tmp_path: Path) -> None:
    settle(tmp_path, {("seed=0",): "x", ("seed=1",): "y"})
    settle(tmp_path, {("seed=1",): "y", ("seed=2",): "z"})
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert {folder: cell["earlier"] for folder, cell in cells.items()} == {
        "0": True,
        "1": False,
        "2": False,
    }
    settle(tmp_path, {("seed=0",): "x"})
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert {folder: cell["earlier"] for folder, cell in cells.items()} == {
        "0": False,
        "1": True,
        "2": True,
    }


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    leave(tmp_path / "4", "finished")
    assert settle(tmp_path, {("seed=0",): "x"}) == {("seed=0",): "5"}
    assert status(tmp_path / "4") == "finished"


@pytest.mark.parametrize(
    ("how", "config", "stays"),
    [
        ("finished", "x", True),
        (None, "x", True),
        ("failed", "x", False),
        ("finished", "y", False),
        (None, "y", False),
    ],
)
def test_what_a_cell_left_stays_where_it_is_of_use(
    tmp_path: Path, how: str | None, config: str, stays: bool
) -> None:
    settle(tmp_path, {("seed=0",): "x"})
    leave(tmp_path / "0", how)
    settle(tmp_path, {("seed=0",): config})
    assert (tmp_path / "0" / "checkpoints").exists() == stays
    assert status(tmp_path / "0") == (how if stays else None)
    assert settle(tmp_path, {("seed=0",): config}) == {("seed=0",): "0"}


def test_only_what_was_cut_off_goes_on(tmp_path: Path) -> None:
    assert checkpoint_to_resume(tmp_path) is None
    leave(tmp_path)
    assert checkpoint_to_resume(tmp_path) == str(tmp_path / "checkpoints" / "last.ckpt")
    leave(tmp_path, "finished")
    assert checkpoint_to_resume(tmp_path) is None


def test_fingerprints_tell_configs_apart() -> None:
    assert fingerprint(OmegaConf.create({"seed": 0})) != fingerprint(OmegaConf.create({"seed": 1}))
    assert fingerprint(OmegaConf.create({"seed": "${x}"})) == fingerprint(
        OmegaConf.create({"seed": "${x}"})
    )


def test_a_file_is_written_as_a_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"one": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"two": object()})
    assert json.loads((tmp_path / "file.json").read_text()) == {"one": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


class Awkward(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_a_failure_can_be_carried_to_another_process() -> None:
    def task(config: Any) -> None:
        raise Awkward(1, 2)

    with pytest.raises(CellFailed, match="Awkward: 1 and 2") as caught:
        Contained(task)(OmegaConf.create())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_a_user_is_told_has_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def task(config: Any) -> None:
        raise UserError("write another seed")

    with pytest.raises(CellFailed, match="write another seed"):
        Contained(task)(OmegaConf.create())
    assert "This cell of the sweep failed: write another seed" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_sweep_is_not_contained(stop: type[BaseException]) -> None:
    def task(config: Any) -> None:
        raise stop

    with pytest.raises(stop):
        Contained(task)(OmegaConf.create())


def test_progress_counts_all_and_estimates_from_the_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path / "0", "finished")
    with Progress(tmp_path, ["0", "1", "2", "3"], seconds=0.01) as progress:
        assert str(progress) == "1/4 cells done"
        leave(tmp_path / "2", "failed")
        deadline = time.monotonic() + 10
        while progress.done < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.begin -= 60
        assert str(progress) == "2/4 cells done, 1 failed, about 2 min left"
        leave(tmp_path / "1", "finished")
        leave(tmp_path / "3", "finished")
    assert capsys.readouterr().out.splitlines()[-1] == "4/4 cells done, 1 failed"


def test_many_short_cells_are_counted_in_tenths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(i) for i in range(40)]
    progress = Progress(tmp_path, folders, seconds=1000)
    with progress:
        for folder in folders:
            leave(tmp_path / folder, "failed" if folder == "1" else "finished")
            progress.expect([])
    counted = [line.partition("/")[0] for line in capsys.readouterr().out.splitlines()]
    assert counted == ["2", *(str(n) for n in range(6, 40, 4)), "40"]


def test_cells_have_progress_bars_only_if_asked(multirun: Compose, tmp_path: Path) -> None:
    assert "progress" not in prepare(multirun("logger=none")).callbacks
    asked = "callbacks.progress._target_=lightning.pytorch.callbacks.TQDMProgressBar"
    assert "progress" in prepare(multirun("logger=none", asked)).callbacks


def test_the_group_of_a_sweep_is_the_same_however_its_directory_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert group_of(Path("sweep")) == group_of(tmp_path / "sweep") == f"{tmp_path.name}-sweep"


@pytest.fixture
def multirun(compose_config: Compose, tmp_path: Path) -> Compose:
    """Composes what a cell of a sweep gets."""

    def compose_(*overrides: str, output_dir: Path | None = None) -> Any:
        options = {} if output_dir is None else {"output_dir": output_dir}
        return compose_config(
            *overrides, "hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}", **options
        )

    return compose_


def test_a_cell_that_was_cut_off_goes_on(
    multirun: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(multirun(*FAST, "trainer.max_epochs=3", output_dir=whole), whole, [])

    def stop(monitor: Any, trainer: Trainer, *args: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "lit_share.callbacks.SharingMonitor.on_train_epoch_start", stop, raising=False
        )
        with pytest.raises(SystemExit):
            run(multirun(*FAST, "trainer.max_epochs=3", output_dir=cut), cut, [])
    assert not (cut / "result.json").exists()
    with pytest.warns(UserWarning, match="Checkpoint directory .* exists"):
        run(multirun(*FAST, "trainer.max_epochs=3", output_dir=cut), cut, [])
    assert OmegaConf.load(cut / "config.yaml").ckpt_path.endswith("cut/checkpoints/last.ckpt")
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, cut)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["sharing"] == results[1]["sharing"]


def test_a_cell_that_another_process_trains_is_its_own(multirun: Compose, tmp_path: Path) -> None:
    cell = tmp_path / "0"
    config = multirun(*FAST, output_dir=cell)
    told = f"{cell}: a cell of a sweep works there since"
    with locked(cell, "a cell of a sweep"), pytest.raises(InUseError, match=told):
        run(config, cell, [])
    assert [path.name for path in cell.iterdir()] == [".lock"]


def test_a_plan_is_printed_once_in_a_sweep(
    multirun: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lit_share.lab.app._check_job._printed", {})
    for seed in (0, 1):
        run(
            multirun(*FAST, f"seed={seed}", output_dir=tmp_path / str(seed)),
            tmp_path / str(seed),
            [],
        )
    run(multirun(*FAST, "regularizer=l2", output_dir=tmp_path / "2"), tmp_path / "2", [])
    run(multirun(*FAST, "regularizer=hard_tie", output_dir=tmp_path / "3"), tmp_path / "3", [])
    printed = capsys.readouterr().out
    # That of l2, which ties single parameters, is another one.
    assert printed.count("Tie plan") == 2
    assert "hard_tie: the same ties as soft_tie\n" in printed


def test_a_cell_with_a_wrong_config_is_marked(multirun: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run(
            multirun(*FAST, "retrain.similarity=2", "regularizer=[growl,l2]"),
            tmp_path,
            ["retrain.similarity=2"],
        )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["strategy"] == "growl+l2"
    assert "retrain.similarity=2.0: write a number in (0, 1]" in result["error"]


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"strategy": "ddp", "devices": 2}, True),
        ({"strategy": "ddp", "devices": 1}, True),
        ({"strategy": "auto", "devices": 2}, True),
        ({"strategy": "ddp_spawn", "devices": 2}, False),
        ({"strategy": "auto", "devices": 1}, False),
    ],
)
def test_copies_of_a_sweep_are_refused(
    multirun: Compose, options: dict[str, Any], refused: bool
) -> None:
    multirun()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    if refused:
        with pytest.raises(ConfigError, match="would run the whole multirun again"):
            refuse_copies_of_a_sweep(trainer)
    else:
        refuse_copies_of_a_sweep(trainer)


def test_a_misspelt_objective_is_named_before_training(
    compose_config: Compose, tmp_path: Path
) -> None:
    config = compose_config(*FAST, "objective=b/val/accuracy", "callbacks.sharing=null")
    with pytest.raises(ValueError, match=r"objective=b/val/accuracy is not among.*b/val/acc"):
        run(config, tmp_path, [])
    assert not (tmp_path / "checkpoints").exists()


def test_wandb_gets_the_group_and_tags(multirun: Compose, tmp_path: Path) -> None:
    options = prepare(
        multirun("logger=wandb", "logger.wandb.tags=[mine]", "regularizer=[growl,l2]")
    ).logger.wandb
    assert options.tags == ["mine", "data=digits", "model=mlp", "ties=all"]
    assert options.job_type == "growl+l2"
    assert options.group == group_of(tmp_path)


@pytest.mark.parametrize("domain", ["inverted", "noisy", "rotated", "same"])
def test_every_domain_has_an_amount_of_its_own(
    compose_config: Compose, tmp_path: Path, domain: str
) -> None:
    run(compose_config(*FAST, f"data.domain={domain}"), tmp_path, [])


def test_the_comparison_is_a_wandb_run_of_the_group(tmp_path: Path, own_folder: None) -> None:
    (tmp_path / "results.csv").write_text(
        "strategy,metric,mean,low\nnone,b/test/acc,0.5,\nsoft_tie,b/test/acc,0.75,0.5\n"
    )
    hydra = {"sweep": {"dir": str(tmp_path)}}
    TrackComparison().on_multirun_end(OmegaConf.create({"hydra": hydra, "logger": {"csv": {}}}))
    assert not (tmp_path / "wandb").exists()
    logger = {"wandb": {"project": "lit_share", "offline": True}}
    TrackComparison().on_multirun_end(OmegaConf.create({"hydra": hydra, "logger": logger}))
    wandb.teardown()  # otherwise the runs of other tests would be this session's
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/comparison*.json")
    assert json.loads(table.read_text())["data"][1] == ["soft_tie", "b/test/acc", 0.75, 0.5]


def test_misspelt_keys_to_tune(compose_config: Compose) -> None:
    with pytest.raises(
        ConfigError, match=r"tune: there is no key 'model.classifer.lr' .* 'model.classifier.lr'"
    ):
        prepare(compose_config("tune=[model.classifer.lr]"))
    for key in ("model.classifier.lr", "retrain.lr"):  # the second one is null
        assert prepare(compose_config(f"tune=[{key}]")).tune == [key]


@pytest.mark.parametrize("key", ["seed", "data", "data.n_b", "regularizer"])
def test_what_is_compared_is_not_tuned(compose_config: Compose, key: str) -> None:
    with pytest.raises(ConfigError, match=f"tune={key}: .*leave it out"):
        prepare(compose_config(f"tune=[{key}]"))


def test_the_worst_is_not_chosen(compose_config: Compose) -> None:
    with pytest.raises(
        ConfigError,
        match="objective=b/val/loss mode=max would choose the worst checkpoint: write mode=min",
    ):
        prepare(compose_config("objective=b/val/loss"))
    assert prepare(compose_config("objective=b/val/loss", "mode=min")).mode == "min"
    assert prepare(compose_config("objective=lossless/val")).mode == "max"
