"""Several fits, with evaluation in between: one penalty per step, and correct memories."""

from __future__ import annotations

import pytest
import torch

from lit_share import Share, Ties

from ._trainers import (
    FORGETFUL,
    ROWS,
    Elsewhere,
    Hooks,
    Lit,
    assert_nothing_left,
    assert_trained,
    strategy,
    trainer,
)

by_row = pytest.mark.parametrize("row", ROWS)


@by_row
def test_same_callback_and_another_trainer(row):
    callback, hooks = strategy(row), Hooks()
    trainer(callback, epochs=1).fit(Elsewhere())
    module, made = Lit(), trainer(callback, hooks, epochs=1)
    made.fit(module)
    assert_trained(row, module, made)
    assert set(hooks.counts) == {hasattr(callback, "penalty")}
    assert_nothing_left(made, module, trainer())


@by_row
def test_same_trainer_goes_on(row):
    """The penalty pulls to where the first fit began."""
    module, made = Lit(FORGETFUL(epochs=2)), trainer(strategy(row), epochs=1)
    made.fit(module)
    made.fit_loop.max_epochs = 2
    made.fit(module)
    assert_trained(row, module, made)
    assert_nothing_left(made, module, trainer())


@by_row
def test_same_trainer_and_another_module(row):
    """The penalty pulls to where this module began."""
    made, module = trainer(strategy(row), epochs=1), Lit()
    made.fit(Elsewhere())
    made.fit_loop.max_epochs = 2
    made.fit(module)
    assert_trained(row, module, made)
    assert_nothing_left(made, module, trainer())


@by_row
def test_evaluation_in_between(row):
    module, made = Lit(FORGETFUL(epochs=2)), trainer(strategy(row), epochs=1)
    made.validate(module, verbose=False)
    made.fit(module)
    made.validate(module, verbose=False)
    assert_nothing_left(made, module, trainer())
    made.test(module, verbose=False)
    assert_nothing_left(made, module, trainer())
    made.fit_loop.max_epochs = 2
    made.fit(module)
    assert_trained(row, module, made)


@by_row
def test_evaluation_of_another_module_in_between(row):
    module, made = Lit(FORGETFUL(epochs=2)), trainer(strategy(row), epochs=1)
    made.fit(module)
    made.test(Elsewhere(), verbose=False)
    made.fit_loop.max_epochs = 2
    made.fit(module)
    assert_trained(row, module, made)


@pytest.mark.parametrize("between", ["validate", "test"])
def test_checkpoints_after_evaluation_have_what_is_shared(between):
    share = Share(Ties("a.*", "b.*"), epoch=1)
    module, made = Lit(FORGETFUL(epochs=2)), trainer(share, epochs=2)
    made.fit(module)
    before = share.state_dict()
    assert before["shared"]
    getattr(made, between)(module, verbose=False)
    made.save_checkpoint("after.ckpt")
    states = torch.load("after.ckpt", weights_only=True)["callbacks"]
    assert states[share.state_key] == before
    again = Lit(FORGETFUL(epochs=2))
    trainer(Share(Ties("a.*", "b.*"), epoch=1), epochs=3).fit(again, ckpt_path="after.ckpt")
    assert again.a[0].weight is again.b[0].weight
