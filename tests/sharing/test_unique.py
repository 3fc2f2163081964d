"""What an optimizer is given, with every parameter once."""

import pytest
import torch

from lit_share.sharing import share, unique_parameters
from lit_share.ties import Ties

from .._modules import mlp, pair_of


@pytest.fixture
def pair():
    pair = pair_of(a=mlp(0), b=mlp(1))
    share(pair, Ties("a.0.*", "b.0.*"))
    return pair


def test_groups(pair):
    groups = [
        {"params": pair["a"].parameters(), "lr": 0.1},
        {"params": pair["b"].parameters(), "weight_decay": 0.5},
    ]
    unique = unique_parameters(groups)
    assert [[p.shape for p in group["params"]] for group in unique] == [
        [(3, 4), (3,), (2, 3), (2,)],
        [(2, 3), (2,)],
    ]
    assert [group.get("lr") for group in unique] == [0.1, None]
    torch.optim.Adam(unique).step()


def test_parameters_and_names(pair):
    parameters = [*pair["a"].parameters(), *pair["b"].parameters()]
    assert len(parameters) == 8
    assert all(
        x is y for x, y in zip(unique_parameters(parameters), pair.parameters(), strict=True)
    )
    names = [name for name, _ in unique_parameters(pair.named_parameters(remove_duplicate=False))]
    assert names == [name for name, _ in pair.named_parameters()]


def test_a_group_of_one_tensor_and_one_that_is_empty(pair):
    weight = pair["a"][0].weight
    unique = unique_parameters([{"params": weight}, {"params": [weight]}])
    assert [group["params"] for group in unique] == [[weight], []]
    torch.optim.SGD(unique, lr=0.1).step()


def test_groups_of_named_parameters(pair):
    groups = [{"params": part.named_parameters(), "lr": 0.1} for part in (pair["a"], pair["b"])]
    assert [[name for name, _ in g["params"]] for g in unique_parameters(groups)] == [
        ["0.weight", "0.bias", "2.weight", "2.bias"],
        ["2.weight", "2.bias"],
    ]


@pytest.mark.filterwarnings("error")
def test_weight_decay_counts_once(pair):
    optimizer = torch.optim.SGD(
        unique_parameters([*pair["a"].parameters(), *pair["b"].parameters()]), 0.1, weight_decay=0.5
    )
    before = pair["a"][0].weight.detach().clone()
    for parameter in pair.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(pair["b"][0].weight.detach(), before * (1 - 0.1 * 0.5))
