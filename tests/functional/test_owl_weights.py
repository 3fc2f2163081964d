"""OWL weights as a function of the number of groups."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lit_share.functional import OwlWeights, owl_weights


@pytest.mark.parametrize("n", [0, 1, 5])
def test_are_those_of_the_number_of_groups(n):
    assert torch.equal(OwlWeights(1.0, 0.5, 0.6)(n), owl_weights(n, 1.0, 0.5, 0.6))


def test_the_ramp_covers_all_groups_by_default():
    assert OwlWeights(1.0, 0.5)(2).tolist() == [2.0, 1.5]


def test_are_plain_data():
    weights = OwlWeights(1.0, 0.5)
    assert pickle.loads(pickle.dumps(weights)) == copy.deepcopy(weights) == weights
    assert repr(weights) == "OwlWeights(lambda1=1.0, lambda2=0.5, fraction=1.0)"


@pytest.mark.parametrize("arguments", [(-1.0, 0.5), (1.0, float("nan")), (1.0, 0.5, 2.0)])
def test_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match="owl_weights needs"):
        OwlWeights(*arguments)
