"""Stopped within an epoch, and resumed.

The loader says where it is, `KeepRandomState` keeps random numbers, and the module the gradients
that have been accumulated: of these Lightning 2.6 saves nothing.
"""

from __future__ import annotations

import pytest

from ._strategies import MARKED
from ._training import BATCHES, EPOCHS
from ._uninterrupted import EachBatch, assert_resumes, each_step, each_validation, uninterrupted


@pytest.fixture
def base(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


@pytest.mark.parametrize("name", MARKED)
def test_after_a_step(name, base):
    whole = uninterrupted(name, base, each_step)
    for epoch, batch in ((0, 1), (1, BATCHES - 1), (2, 1)):
        step = epoch * BATCHES + batch
        logged = assert_resumes(name, whole, whole.files[epoch, step])
        assert [row[0] for row in logged if row[1] == "loss"] == list(range(step, EPOCHS * BATCHES))


@pytest.mark.parametrize("name", MARKED)
def test_after_the_last_step_of_an_epoch(name, base):
    """Lightning leaves out the end of this epoch, its validation, and the start of the next one."""
    whole = uninterrupted(name, base, each_step)
    for epoch in range(EPOCHS - 1):
        assert_resumes(name, whole, whole.files[epoch, (epoch + 1) * BATCHES])


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("interval", [3, BATCHES])
def test_after_a_validation(name, interval, base):
    options = {"val_check_interval": interval}
    whole = uninterrupted(name, base, each_validation, **options)
    for epoch in (0, 1):
        assert_resumes(name, whole, whole.files[epoch, epoch * BATCHES + interval], **options)


@pytest.mark.parametrize("name", MARKED)
def test_within_a_window_of_accumulation(name, base):
    whole = uninterrupted(name, base, EachBatch, accumulate_grad_batches=4)
    for epoch, batch in ((0, 1), (1, 4), (2, 3)):
        assert_resumes(name, whole, whole.files[epoch, batch], accumulate_grad_batches=4)
