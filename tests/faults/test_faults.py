"""Every row of the table: the error, its text, its stage, and that nothing is lost or left."""

from __future__ import annotations

import tempfile

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import lit_share as ls

from ._left import (
    assert_same_files,
    assert_same_weights,
    files,
    hooks,
    hooks_of_optimizer,
    processes,
    threads,
    variables,
    watching,
    weights,
)
from ._run import Pair, fit, run_row
from ._table import ROWS

# What a training that fails leaves on purpose: what it was, that it failed, and what it had logged
# until then.
OF_A_RUN = ("out/.lock", "out/config.yaml", "out/result.json", "out/csv/*")


def left_on(trainer: Trainer) -> list[str]:
    return [
        name
        for name, value in vars(trainer.strategy).items()
        if callable(value) and "_wrapped" in repr(value)
    ]


@pytest.mark.parametrize(
    "row", [r for r in ROWS if not r.slow], ids=lambda row: row.name.replace(" ", "_")
)
def test_fault(row, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    if row.before is not None:
        row.before(tmp_path)
    pair = Pair()
    were = [weights(pair), hooks(pair), files(tmp_path), variables(), processes(), threads()]
    with watching() as watch:
        error, message = run_row(row, tmp_path, pair)
        assert (error, row.matches(message)) == (row.error, True), message
        assert (watch.steps > 0) == (row.when in ("in training", "at the end"))
        if row.when == "at once" and "train.py" not in row.what:
            assert not watch.trainers
        for optimizer in watch.optimizers:
            assert not hooks_of_optimizer(optimizer)
        for trainer in watch.trainers:
            if not hasattr(trainer, "_accelerator_connector"):
                continue  # its arguments were wrong
            assert not left_on(trainer)
            if trainer.lightning_module is not None:
                # What is tied keeps those that verify a state dict.
                assert not [
                    name for name in hooks(trainer.lightning_module) if "state_dict" not in name
                ]
    before_weights, before_hooks, before_files, *others = were
    if not row.changes:
        assert_same_weights(weights(pair), before_weights)
        assert hooks(pair) == before_hooks
    of_a_run = OF_A_RUN if "train.py" in row.what else ()
    assert_same_files(files(tmp_path), before_files, (*row.leaves, *of_a_run))
    before_variables, before_processes, before_threads = others
    assert variables() == before_variables
    assert processes() <= before_processes  # those of earlier tests may end meanwhile
    assert threads() <= before_threads


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.slow], ids=lambda row: row.name.replace(" ", "_")
)
def test_fault_of_a_process(row, tmp_path):
    if row.before is not None:
        row.before(tmp_path)
    error, message = run_row(row, tmp_path, Pair())
    assert error == row.error
    assert row.matches(message), f"heard:\n{message}\nexpected:\n{row.message}"


def test_there_are_many_rows_and_each_is_another():
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len({row.what for row in ROWS}) == len(ROWS)


def test_no_checkpoint_has_what_diverged(tmp_path):
    penalty = ls.Penalty(norm="l1", groups="element", center="mean")
    ties = ls.Ties("a.*", "b.*")
    checkpoints = ModelCheckpoint(tmp_path, save_top_k=-1)
    with pytest.raises(ValueError, match="so training has diverged"):
        fit(Late(), ls.Regularize(penalty, ties, strength=0.1), checkpoints, max_epochs=3)
    (saved,) = tmp_path.iterdir()
    for tensor in torch.load(saved, weights_only=True)["state_dict"].values():
        assert torch.isfinite(tensor).all()


def test_what_is_not_trained_has_not_diverged():
    pair = Pair()
    pair.mask = torch.nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)
    trainer = fit(
        pair, ls.Regularize(ls.Penalty("squared", "element", "zero"), ls.Ties("*"), strength=0.1)
    )
    assert trainer.current_epoch == 2


class Late(Pair):
    """A loss that is NaN in the second epoch."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        return loss * float("nan") if self.global_step == 13 else loss
