"""Stopped after any epoch, and resumed."""

from __future__ import annotations

import pytest
import torch

from ._strategies import STRATEGIES
from ._training import EPOCHS, Lit, Rows, assert_bitwise, fit, state_of
from ._uninterrupted import uninterrupted


@pytest.mark.filterwarnings("ignore:training ended before epoch 2, so Share.* shared nothing")
@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_after_every_epoch(name, tmp_path_factory):
    whole = uninterrupted(name, tmp_path_factory.getbasetemp())
    optimizer, callbacks = STRATEGIES[name]
    file, rows = None, Rows()
    for epochs in range(1, EPOCHS + 1):
        module = Lit(optimizer, seeds=(1, 2) if file is None else (3, 4))
        made = fit(module, *callbacks(), ckpt_path=file, epochs=epochs, logger=rows)
        file = f"{epochs}.ckpt"
        made.save_checkpoint(file)
    assert_bitwise(state_of(made, module), whole.state)
    assert_bitwise(rows.rows, whole.rows, "logged")


# What there would be to lose.
KEPT = {
    "growl": "frozen",
    "group_lasso": "frozen",
    "l2_sp": "starting_values",
    "ewc": "precision",
    "soft_tie, precision of Adam": "precision",
    "hard_tie": "shared",
}


@pytest.mark.parametrize("name", KEPT)
def test_checkpoints_have_what_callbacks_remember(name):
    optimizer, callbacks = STRATEGIES[name]
    fit(Lit(optimizer), *callbacks(), epochs=2).save_checkpoint("half.ckpt")
    states = torch.load("half.ckpt", weights_only=True)["callbacks"].values()
    assert any(state.get(KEPT[name]) for state in states)
