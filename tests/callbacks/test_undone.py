"""What a step changes is undone."""

from __future__ import annotations

import copy
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import CatMetric, MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy

from lit_share.callbacks._undone import undone


class Net(nn.Module):
    """With all that a step may change."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.metrics = MetricCollection({"acc": BinaryAccuracy(), "mean": MeanMetric()})
        self.values = CatMetric()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("nothing", None)
        self.outputs, self.by_name, self.seen = [1], {"a": [1], "b": torch.zeros(2)}, {1}
        self.last, self.number, self.plain = deque([1], maxlen=2), 0, torch.zeros(2)

    def step(self, x):
        self.train()
        y = self.frozen(self.spectral(self.drop(self.norm(x))))
        self.metrics["acc"].update((x[:, 0] > 0).int(), torch.ones(len(x)).int())
        self.metrics["mean"](x)
        self.values.update(x[:, 0])
        self.count += 1
        self.nothing = torch.ones(1)
        self.outputs.append(y)
        self.by_name["a"].append(y)
        self.by_name["b"] += 1
        self.by_name["c"] = 1
        self.seen.add(2)
        self.last.extend([2, 3])
        self.plain += 1
        self.number, self.new = 5, y
        random.random()
        np.random.rand()
        torch.rand(1)
        return y

    def fail(self, x):
        raise RuntimeError(str(self.step(x).shape))


def state(net):
    """All that could have changed, as text."""
    modules = {name: {**vars(own)} for name, own in net.named_modules()}
    found = []
    for name, own in modules.items():
        for key, value in own.items():
            if key not in ("_modules", "_parameters"):
                found.append((name, key, repr(value)))
    rng = (
        random.getstate()[1][:5],
        np.random.get_state()[1][:5].tolist(),
        torch.get_rng_state()[:99],
    )
    return found, repr(rng)


def test_undone():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(5, 3)
    net.step(x)
    del net.new
    net.frozen.eval()
    before, kept = state(net), (net.outputs, net.count, net.by_name["b"], net.plain)
    with undone(net):
        assert not any(own.training for own in net.modules())
        y = net.step(x)
        assert state(net) != before
    assert state(net) == before
    # The same objects, which others may hold.
    for own, other in zip(kept, (net.outputs, net.count, net.by_name["b"], net.plain), strict=True):
        assert own is other
    # What came out still has its graph.
    y.sum().backward()
    assert net.spectral.bias.grad is not None


def test_undone_after_an_error():
    net = Net()
    before = state(net)
    with pytest.raises(RuntimeError, match=r"Size"), undone(net):
        net.fail(torch.randn(5, 3))
    assert state(net) == before


def test_unchanged_memory_keeps_its_version():
    """Autograd refuses a backward pass through memory that was written to."""
    net = Net()
    product = (net.count + torch.ones((), requires_grad=True)) * net.count
    with undone(net):
        pass
    product.backward()


def test_tensors_of_inference_mode_are_left():
    net = Net()
    with torch.inference_mode():
        net.plain = torch.zeros(2)
    with undone(net):
        net.number = 3
    assert net.number == 0


def test_parameters_that_are_replaced_stay_so():
    """As FSDP2 does in a forward pass."""
    net, new = Net(), nn.Parameter(torch.ones(3))
    with undone(net):
        net.norm.weight = new
    assert net.norm.weight is new


def test_copies_are_independent():
    net = Net()
    with undone(net):
        other = copy.deepcopy(net)
        net.count += 1
    assert other.count == net.count == 0


CONTAINERS = {
    "nested lists": (lambda: [[], [0]], lambda own: own[1].append(1)),
    "defaultdict": (lambda: defaultdict(list), lambda own: own["a"].append(1)),
    "counter": (lambda: Counter("a"), lambda own: own.update("ab")),
    "ordered": (lambda: OrderedDict(a=1, b=2), lambda own: own.move_to_end("a")),
    "array": (lambda: np.zeros(3), lambda own: own.fill(1)),
    "list of tensors": (lambda: [torch.zeros(3)], lambda own: own[0].add_(1)),
    "list of arrays": (lambda: ([np.zeros(3)],), lambda own: own[0][0].fill(1)),
    "list of metrics": (lambda: [MeanMetric()], lambda own: own[0].update(1.0)),
    "dict of metrics": (lambda: {"a": CatMetric()}, lambda own: own["a"].update(1.0)),
    "torch generator": (torch.Generator, lambda own: torch.rand(1, generator=own)),
    "python generator": (lambda: random.Random(0), lambda own: own.random()),
    "numpy generator": (lambda: np.random.default_rng(0), lambda own: own.random()),
    "numpy random state": (lambda: np.random.RandomState(0), lambda own: own.rand()),
}


def content(value):
    if isinstance(value, nn.Module):
        return repr(value.metric_state)
    if isinstance(value, dict):
        return [(key, content(own)) for key, own in value.items()]
    if isinstance(value, (list, tuple)):
        return [content(own) for own in value]
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return pickle.dumps(value)
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    return repr(value.getstate() if isinstance(value, random.Random) else value)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_and_generators(name):
    make, change = CONTAINERS[name]
    net = nn.Module()
    net.held = held = make()
    before = content(held)
    with undone(net):
        change(net.held)
        assert content(held) != before
    assert net.held is held
    assert content(held) == before


def test_a_container_that_holds_its_module():
    net = Net()
    net.by_name["net"] = net.outputs
    net.outputs.append(net)
    with undone(net):
        net.outputs.clear()
    assert net.outputs == [1, net]


def test_buffers_that_share_their_memory():
    """Nothing can be written to what `expand` returns, neither by a step nor afterwards."""
    net = nn.Module()
    net.register_buffer("mask", torch.ones(1).expand(4), persistent=False)
    net.register_buffer("one", torch.ones(1).expand(4)[:1], persistent=False)
    with undone(net):
        net.mask = torch.zeros(4)
        net.one += 1
    assert net.mask.tolist() == [1.0] * 4
    assert net.one.tolist() == [1.0]
