"""What benchmarks claim of models that were trained apart, on fewer runs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mlxtend")
from benchmarks import alignment_cost, scarce_aligned, several_apart, trained_apart
from benchmarks._apart import Digits, Part, cnn, merged, mlp, score


def random_parts(networks):
    generator = torch.Generator().manual_seed(0)
    parts = [
        Part(
            torch.rand(100, 784, generator=generator),
            torch.randint(10, (100,), generator=generator),
        )
        for _ in range(networks)
    ]
    return Digits(parts, parts)


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_merging_equal_networks_changes_no_output(make, repaired):
    net = make()
    pair = nn.ModuleDict({"a": net, "b": copy.deepcopy(net)})
    data = random_parts(2)
    curve = trained_apart.curve(pair, data._replace(parts=[data.parts[0]] * 2), repaired)
    assert [point.fraction for point in curve] == sorted({point.fraction for point in curve})
    assert (curve[0].fraction, curve[-1].fraction) == (0.0, pytest.approx(1.0))
    losses = [point.score.loss for point in curve]
    assert losses == pytest.approx(losses[:1] * len(losses), rel=1e-4)


def test_merged_networks_are_their_mean():
    nets = nn.ModuleDict({name: mlp() for name in "abc"})
    expected = torch.stack([net[0].weight for net in nets.values()]).mean(0)
    heads = [net[6].weight.clone() for net in nets.values()]
    both = merged(nets, random_parts(3), 1, repaired=False)
    assert all(torch.equal(net[0].weight, both["a"][0].weight) for net in both.values())
    assert torch.allclose(both["a"][0].weight, expected)
    for net, head in zip(both.values(), heads, strict=True):
        assert torch.equal(net[6].weight, head)


def test_networks_of_one_accuracy_have_their_mean():
    data = random_parts(2)
    net = mlp()
    labels = net(data.parts[0].images).argmax(1)
    right = Part(data.parts[0].images, labels)
    wrong = Part(data.parts[0].images, (labels + 1) % 10)
    assert score(nn.ModuleDict({"a": net, "b": net}), [right, wrong]).accuracy == 0.5


@pytest.mark.slow
def test_aligned_networks_can_be_merged():
    found = trained_apart.measure(mlp, 1, 6, same_start=False, unrelated=False)
    (before,), (after,) = found["as trained"], found["aligned by weights"]
    assert before.barrier > 0.3
    assert after.barrier < 0.15 * before.barrier
    (repaired,) = found["aligned by weights, repaired"]
    assert repaired.mean.accuracy > repaired.ends.accuracy - 0.01
    # Layers can be shared one by one, too.
    assert min(point.score.accuracy for point in after.curve) > after.ends.accuracy - 0.02
    assert min(point.score.accuracy for point in before.curve) < before.ends.accuracy - 0.1


@pytest.mark.slow
@pytest.mark.long
def test_last_layers_of_shuffled_classes_cannot_be_merged():
    found = trained_apart.measure(mlp, 1, 6, same_start=False, unrelated=True)
    (after,) = found["aligned by weights, repaired"]
    *hidden, everything = after.curve
    assert min(point.score.accuracy for point in hidden) > after.ends.accuracy - 0.02
    assert everything.score.accuracy < 0.7


@pytest.mark.slow
@pytest.mark.long
def test_three_aligned_networks_can_be_merged():
    found = several_apart.measure(3, 1, 6)
    (alone,) = found["each by itself"]
    for reference in ("first", "mean"):
        assert found[f"mean, aligned to the {reference}"][0] > alone
    assert found["mean, as trained"][0] < alone - 0.1


@pytest.mark.slow
@pytest.mark.long
def test_a_scarce_model_is_tied_from_each_start(monkeypatch):
    monkeypatch.setattr(scarce_aligned, "STEPS_OF_A", 200)
    monkeypatch.setattr(scarce_aligned, "STEPS", 50)
    data = scarce_aligned.Data(0, shuffled=False)
    starts = scarce_aligned.starts(data, 0)
    assert list(starts) == list(scarce_aligned.STARTS)

    def run(start, recipe, strength, steps=50):
        return scarce_aligned.tied(starts[start], data, recipe, strength, steps)

    alone = run("own weights", "none", 0.0)
    assert alone.equal == 0.0
    # Units in another order train to the same network.
    aligned = run("own, aligned by weights", "none", 0.0)
    assert aligned.accuracy == pytest.approx(alone.accuracy, abs=0.005)
    for start in scarce_aligned.STARTS:
        one = run(start, "hard_tie", 0.0)
        assert one.equal == 1.0
        assert one.accuracy > alone.accuracy
    means = {start: run(start, "hard_tie", 0.0, steps=0).accuracy for start in starts}
    assert means["own, aligned by weights"] > means["own weights"] + 0.02


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.multiprocess
def test_the_cost_of_aligning_is_measured():
    network, shape = alignment_cost.TINY["transformer"]
    cost = alignment_cost.run(network, shape, "weights")
    module = nn.TransformerEncoderLayer(8, 8, 32)
    assert cost.numbers == 3 * sum(p.numel() for p in module.parameters())
    assert cost.seconds > 0.0
    assert cost.peak >= alignment_cost.run(network, shape, None).peak - 5.0
