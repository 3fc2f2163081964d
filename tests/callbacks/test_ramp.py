"""Ramps, against the formula."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_share.callbacks import Regularize
from lit_share.functional import Penalty
from lit_share.penalties import Ramp
from lit_share.ties import Ties

from ._modules import Still, assert_same, fit, weights

same_in_every_run = settings(derandomize=True, database=None, deadline=None, max_examples=200)
factor = st.floats(0.0, 5.0)


def by_hand(t, duration, start, end, begin, shape):
    if t <= begin:
        return start
    if t >= begin + duration:
        return end
    u = (t - begin) / duration
    return start + (end - start) * (u if shape == "linear" else math.sin(math.pi * u / 2) ** 2)


@same_in_every_run
@given(
    time=st.integers(0, 60),
    other=st.integers(0, 60),
    duration=st.integers(1, 30),
    start=factor,
    end=factor,
    begin=st.integers(0, 20),
    shape=st.sampled_from(["linear", "cosine"]),
    unit=st.sampled_from(["steps", "epochs"]),
    stop=st.one_of(st.none(), st.integers(21, 60)),
)
def test_formula(time, other, duration, start, end, begin, shape, unit, stop):
    ramp = Ramp(duration, start, end, begin, shape, unit, stop)
    step, epoch = (time, other) if unit == "steps" else (other, time)
    expected = by_hand(time, duration, start, end, begin, shape)
    if stop is not None and time >= stop:
        expected = 0.0
    assert ramp(step, epoch) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert pickle.loads(pickle.dumps(ramp))(step, epoch) == ramp(step, epoch)


def test_warm_up_is_the_default():
    assert [Ramp(duration=4)(step, 0) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"duration": 0}, "duration >= 1 and begin >= 0, got duration=0, begin=0"),
        ({"duration": 5, "begin": -1}, "got duration=5, begin=-1"),
        ({"duration": 5, "start": -0.1}, "finite factors >= 0, got start=-0.1, end=1.0"),
        ({"duration": 5, "end": float("inf")}, "end=inf"),
        ({"duration": 5, "start": float("nan")}, "start=nan"),
        ({"duration": 5, "begin": 4, "stop": 4}, "a stop after its begin=4, got stop=4"),
        ({"duration": 5, "stop": float("inf")}, "a stop after its begin=0, got stop=inf"),
        (
            {"duration": 5, "shape": "cubic"},
            "unknown shape 'cubic' of a Ramp: write one of 'linear', 'cosine'",
        ),
        (
            {"duration": 5, "unit": "batches"},
            "unknown unit 'batches' of a Ramp: write one of 'steps', 'epochs'",
        ),
    ],
    ids=lambda value: str(value),
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ramp(**arguments)


def test_a_ramp_stops_where_equal_members_are_shared():
    ramp = Ramp(duration=1, begin=2, stop=4, unit="epochs")
    assert [ramp(9, epoch) for epoch in range(6)] == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]


L2 = Penalty("squared", "element", "zero")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_are_optimizer_steps(accumulate):
    module = Still()
    before = weights(module)
    ramp = Ramp(duration=4, start=0.5, end=2.0, begin=1)
    fit(module, Regularize(L2, Ties("*"), 0.3, schedule=ramp), accumulate_grad_batches=accumulate)
    shrunk = math.prod(
        1 - 0.1 * 0.3 * by_hand(t, 4, 0.5, 2.0, 1, "linear") for t in range(20 // accumulate)
    )
    assert_same(weights(module), {name: shrunk * value for name, value in before.items()}, 1e-12)


def test_epochs():
    module = Still()
    before = weights(module)
    fit(module, Regularize(L2, Ties("*"), 0.3, schedule=Ramp(duration=3, unit="epochs")), epochs=5)
    shrunk = math.prod((1 - 0.1 * 0.3 * min(epoch / 3, 1.0)) ** 10 for epoch in range(5))
    assert_same(weights(module), {name: shrunk * value for name, value in before.items()}, 1e-12)


def test_any_function_is_a_schedule():
    seen = []

    def schedule(step, epoch):
        seen.append((step, epoch))
        return 1.0 if step % 2 else 0.0

    module = Still()
    before = weights(module)
    fit(module, Regularize(L2, Ties("*"), 0.3, schedule=schedule))
    shrunk = (1 - 0.1 * 0.3) ** 10
    assert_same(weights(module), {name: shrunk * value for name, value in before.items()}, 1e-12)
    assert sorted(set(seen)) == [(step, step // 10) for step in range(20)]
