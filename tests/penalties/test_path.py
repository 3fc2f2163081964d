"""Paths of strengths: which strength each epoch has, and which knot is chosen."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lit_share.penalties import Path, PenaltySteps, Ramp
from lit_share.ties import Ties


def test_strengths_are_a_geometric_progression_after_zero():
    zero, *rising = Path(0.02, 3.0, steps=7).strengths
    assert zero == 0.0
    assert (rising[0], rising[-1]) == (0.02, 3.0)
    ratios = [after / before for before, after in pairwise(rising)]
    assert ratios == pytest.approx([(3.0 / 0.02) ** (1 / 6)] * 6)


def test_a_path_of_one_step():
    assert Path(0.5, 0.5, steps=1).strengths == [0.0, 0.5]


@pytest.mark.parametrize(("first", "expected"), [(None, 2), (5, 5)])
def test_epochs(first, expected):
    path = Path(0.1, 10.0, steps=3, epochs=2, first=first)
    knots = [0] * expected + [1, 1, 2, 2, 3, 3]
    assert path.max_epochs == len(knots)
    assert [path.knot(epoch) for epoch in range(len(knots))] == knots
    assert [path.at(epoch) for epoch in range(len(knots))] == [path.strengths[k] for k in knots]
    ends = [epoch for epoch in range(len(knots) + 3) if path.ends_with(epoch)]
    assert ends == [expected - 1, expected + 1, expected + 3, expected + 5]
    # As after training, when a value is asked for.
    assert path.knot(len(knots)) == 3


@pytest.mark.parametrize(
    ("options", "scores", "errors", "expected"),
    [
        ({}, [0.5, 0.40, 0.44, 0.46], [0.1, 0.05, 0.5, 0.5], 2),
        ({}, [0.5, 0.40, 0.46, 0.44], [0.1, 0.05, 0.5, 0.5], 3),
        ({"choose": "best"}, [0.5, 0.40, 0.44, 0.40], [0.1] * 4, 1),
        ({}, [0.5, 0.40, 0.44, 0.40], [None] * 4, 1),
        ({}, [0.5, math.nan, 0.44, math.inf], [0.1] * 4, 2),
        ({"monitor": "acc", "mode": "max"}, [0.9, 0.95, 0.92, 0.5], [0.1, 0.04, 0.1, 0.1], 2),
        ({"monitor": "acc", "mode": "max", "choose": "best"}, [0.9, 0.95, 0.95], [0.1] * 3, 1),
    ],
)
def test_choice(options, scores, errors, expected):
    assert Path(**options).choice(scores, errors) == expected


def test_no_finite_score():
    with pytest.raises(ValueError, match="no score of the path is finite"):
        Path().choice([math.nan, math.inf], [None, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, r"Path\(low=0.0\): write a finite number > 0; a strength of 0 is always"),
        ({"high": math.inf}, r"Path\(high=inf\)"),
        ({"low": True}, r"Path\(low=True\)"),
        ({"low": 2.0}, r"low=2.0, high=1.0\): write a high of at least low"),
        ({"steps": 0}, r"Path\(steps=0\): write a whole number of at least 1"),
        ({"epochs": 1.5}, r"Path\(epochs=1.5\)"),
        ({"first": 0}, r"Path\(first=0\)"),
        ({"choose": "last"}, "choose"),
        ({"mode": "max"}, "name a metric by monitor="),
        ({"monitor": "acc", "loss": "val/loss"}, "leave the other out"),
    ],
    ids=str,
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Path(**options)


@pytest.mark.parametrize("penalty", ["soft_tie", "exact_tie"])
def test_a_plain_loop_walks_as_it_would_by_hand(penalty):
    path = Path(0.05, 0.5, steps=2, epochs=2)
    walked, by_hand = (train(penalty, s, f) for s, f in [(path, None), (1.0, by_epoch(path))])
    assert torch.equal(walked, by_hand)


def test_a_schedule_multiplies():
    path, ramp = Path(0.05, 0.5, steps=2, epochs=2), Ramp(duration=6, unit="epochs")
    steps = PenaltySteps("soft_tie", Ties("a", "b"), path, schedule=ramp)
    expected = [0.0, 0.0, 0.05 * 2 / 6, 0.05 * 3 / 6, 0.5 * 4 / 6, 0.5 * 5 / 6]
    assert [steps.strength_at(0, epoch) for epoch in range(6)] == pytest.approx(expected)


def by_epoch(path):
    return lambda _, epoch: path.at(epoch)


def train(penalty, strength, schedule):
    module = nn.ParameterDict({"a": nn.Parameter(torch.ones(5)), "b": nn.Parameter(-torch.ones(5))})
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    steps = PenaltySteps(penalty, Ties("a", "b"), strength, schedule)
    steps.attach(module, optimizer)
    for _ in range(6):
        for target in (0.5, 2.0):
            optimizer.zero_grad()
            (module["a"] - target).square().sum().add(
                (module["b"] + target).pow(4).sum()
            ).backward()
            steps.before_step()
            optimizer.step()
            steps.after_step()
        steps.end_epoch()
    return torch.stack([*module.values()]).detach()
