"""A fit that was cut short by an exception, and another one."""

from __future__ import annotations

import signal

import pytest

from ._trainers import (
    ROWS,
    Elsewhere,
    Hooks,
    Lit,
    assert_nothing_left,
    assert_trained,
    strategy,
    trainer,
)

STOPS = [
    "training_step",
    "validation_step",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "configure_optimizers",
]


class Stopped(Elsewhere):
    """Raises when a method is called for the third time, or in vain for the first."""

    def __init__(self, method, error):
        super().__init__()
        made, calls = getattr(self, method), []

        def stopped(*args, **kwargs):
            calls.append(None)
            if len(calls) == (1 if method == "configure_optimizers" else 3):
                raise error
            return made(*args, **kwargs)

        setattr(self, method, stopped)


@pytest.fixture(autouse=True)
def _interrupts():
    """Lightning ignores them from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def stop(made, module, error):
    # Lightning leaves the process after an interrupt.
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        made.fit(module)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("method", STOPS)
def test_another_trainer(row, method):
    callback, hooks, stopped = strategy(row), Hooks(), Stopped(method, ArithmeticError)
    made = trainer(callback, epochs=1)
    stop(made, stopped, ArithmeticError)
    del stopped.__dict__[method]
    assert_nothing_left(made, stopped, trainer())
    module, made = Lit(), trainer(callback, hooks, epochs=1)
    made.fit(module)
    assert_trained(row, module, made)
    assert set(hooks.counts) == {hasattr(callback, "penalty")}
    assert_nothing_left(made, module, trainer())


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_same_trainer(row, error):
    """It restarts the epoch."""
    stopped, made, module = Stopped("training_step", error), trainer(strategy(row), epochs=1), Lit()
    stop(made, stopped, error)
    assert made.global_step == 2
    del stopped.__dict__["training_step"]
    assert_nothing_left(made, stopped, trainer())
    made.fit(module)
    assert_trained(row, module, made)
    assert_nothing_left(made, module, trainer())
