"""Lightning's tuners try something out, without any callbacks, and put everything back."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateFinder
from lightning.pytorch.tuner import Tuner

from lit_share import Regularize

from ._trainers import (
    ROWS,
    Hooks,
    Lit,
    Mode,
    assert_nothing_left,
    assert_trained,
    strategy,
    trainer,
)

# A gradient, a proximal step and sharing: trying batch sizes takes two seconds for each.
QUICK = {"soft_tie", "layer_tie", "hard_tie"}

by_row = pytest.mark.parametrize("row", ROWS)


def find_rate(tuner, module):
    tuner.lr_find(module, num_training=4, update_attr=False)


def find_batch_size(tuner, module):
    module.batch_size = 2
    tuner.scale_batch_size(module, max_trials=2, steps_per_trial=2)


@by_row
def test_a_rate_before_a_fit(row):
    check_before_a_fit(row, find_rate)


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.slow] * (row not in QUICK)) for row in ROWS]
)
def test_a_batch_size_before_a_fit(row):
    check_before_a_fit(row, find_batch_size)


def check_before_a_fit(row, find):
    module, callback, hooks = Lit(), strategy(row), Hooks()
    made = trainer(callback, hooks, epochs=1)
    find(Tuner(made), module)
    assert_nothing_left(made, module, trainer())
    made.fit(module)
    assert_trained(row, module, made)
    assert set(hooks.counts) == {hasattr(callback, "penalty")}
    assert_nothing_left(made, module, trainer())


class AtEpochs(LearningRateFinder):
    """As Lightning's documentation writes it."""

    def on_fit_start(self, *_):
        return

    def on_train_epoch_start(self, trainer, pl_module):
        self.lr_find(trainer, pl_module)


@by_row
@pytest.mark.parametrize("first", [False, True])
def test_within_a_fit(row, first):
    module, callbacks = (
        Lit(Mode(epochs=2)),
        [strategy(row), AtEpochs(num_training_steps=4, update_attr=False)],
    )
    made = trainer(*(reversed(callbacks) if first else callbacks), epochs=2)
    made.fit(module)
    assert_trained(row, module, made)
    assert_nothing_left(made, module, trainer())


class PutsBack(Callback):
    """As tuners restore: a file loaded to the CPU, in another dtype for want of a device."""

    def on_train_epoch_start(self, trainer, pl_module):
        (callback,) = (c for c in trainer.callbacks if isinstance(c, Regularize))
        start = {
            name: value.float() for name, value in callback.state_dict()["starting_values"].items()
        }
        callback.load_state_dict(callback.state_dict() | {"start": start})


def test_what_is_put_back_gets_the_form_of_the_parameters():
    module, callback = Lit(), strategy("l2_sp")
    made = trainer(callback, PutsBack(), epochs=1)
    made.fit(module)
    assert {value.dtype for value in callback.state_dict()["starting_values"].values()} == {
        torch.float64
    }
    assert_trained("l2_sp", module, made)
