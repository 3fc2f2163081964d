"""Metrics are sums over ties of the functions' counts, however ties are split up."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_share.metrics import ParameterSharing, RelativeDistance, TiedFraction
from lit_share.sharing import share
from lit_share.ties import Ties


def some_ties(seed: int = 0) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    ties = [
        [torch.randn(shape, generator=generator) for _ in range(n)]
        for n, shape in ((2, (4, 3)), (3, (5,)))
    ]
    ties[0][1][:2] = ties[0][0][:2]
    return ties


def expected_distance(ties: Sequence[Sequence[Tensor]]) -> float:
    between = sum(
        float((x - y).square().sum()) for tie in ties for i, x in enumerate(tie) for y in tie[:i]
    )
    size = sum((len(tie) - 1) * float(w.square().sum()) for tie in ties for w in tie)
    return math.sqrt(between / size)


def test_relative_distance_over_ties() -> None:
    metric = RelativeDistance()
    for tie in some_ties():
        metric.update(tie)
    assert float(metric.compute()) == pytest.approx(expected_distance(some_ties()), rel=1e-6)


def test_relative_distance_of_zeros_is_zero() -> None:
    metric = RelativeDistance()
    metric.update([torch.zeros(3), torch.zeros(3)])
    assert metric.compute() == 0.0


def test_tied_fraction_over_ties() -> None:
    metric = TiedFraction()
    for tie in some_ties():
        metric.update(tie)
    assert float(metric.compute()) == pytest.approx(6 / 17)


def test_parameter_sharing_counts_shared_and_zero_numbers() -> None:
    pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    share(pair, Ties("a.*", "b.*"))
    with torch.no_grad():
        pair["a"].weight[0] = 0.0
    metric = ParameterSharing()
    metric.update(pair)
    assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(
        {"sparsity": 6 / 16, "sharing": 2.0, "compression": 16 / 5}
    )


def test_parameter_sharing_finds_equal_numbers_of_ties() -> None:
    pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    pair["b"].load_state_dict(pair["a"].state_dict())
    alone, tied = ParameterSharing(), ParameterSharing(Ties("a.*", "b.*"))
    alone.update(pair)
    tied.update(pair)
    assert float(alone.compute()["compression"]) == 1.0
    assert float(tied.compute()["compression"]) == 2.0


@pytest.mark.parametrize(
    "metric", [RelativeDistance(), TiedFraction()], ids=lambda m: type(m).__name__
)
def test_ranks_add_up(metric: Metric) -> None:
    """Two ranks with a tie each know together what one process with both ties knows."""
    first, second = some_ties()
    whole, ranks = metric.clone(), [metric.clone(), metric.clone()]
    for tie in (first, second):
        whole.update(tie)
    for rank, tie in zip(ranks, (first, second), strict=True):
        rank.update(tie)
    ranks[0]._reduce_states(ranks[1].metric_state)
    assert ranks[0].compute() == pytest.approx(float(whole.compute()))


@pytest.mark.parametrize(
    "metric", [RelativeDistance(), TiedFraction()], ids=lambda m: type(m).__name__
)
def test_state_is_reset_and_survives_a_round_trip(metric: Metric) -> None:
    metric.persistent(True)
    metric.update(some_ties()[0])
    before = metric.compute()
    fresh = metric.clone()
    fresh.reset()
    fresh.load_state_dict(metric.state_dict())
    fresh._update_count = 1
    assert fresh.compute() == before
    fresh.reset()
    assert fresh.metric_state != metric.metric_state
