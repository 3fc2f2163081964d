"""Units that are planted unread are dropped, and outputs stay."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

import lit_share as ls
from lit_share.alignment import AlignError, axis_graph, drop_units, run
from lit_share.alignment._drop import _tolerance
from lit_share.alignment._run import named_tensors
from lit_share.lab.cli import main

from ._nets import FLAT, NETS, SEQUENCE, WORDS, Add, Attention, Function, graph_of, made, numbers


@torch.no_grad()
def plant(module, graph, axes, unit=-1):
    """Set to zero what has a unit of these axes, its weights and those of its readers."""
    tensors = named_tensors(module)
    for axis in axes:
        for name, dim in ((o.name, o.dim) for o in graph.free[axis].occurrences):
            for block in graph.dimensions[name][dim]:
                for factor, other in enumerate(block.axes):
                    if other == axis and "var" not in name:
                        where = block.positions().movedim(factor, 0)[unit].flatten()
                        tensors[name].index_fill_(dim, where, 0.0)


def other_inputs(inputs):
    if not inputs.is_floating_point():
        return inputs.flip(-1)
    return 3.0 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(7))


# The axes that lose their planted unit. Statistics read all units of the others, the code states
# their size, or recurrent layers need all of theirs.
DROPPED = {
    "mlp": [0, 1], "mlp_with_batch_norm": [0, 1], "cnn": [0, 1, 2], "grouped": [0, 1, 2],
    "depthwise": [0, 1], "transposed": [1, 2, 3], "norms": [], "residual": [1, 2],
    "resnet": [0, 1, 2, 3, 4, 5], "bottlenecks": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "convnext": [1, 2],
    "densenet": [0, 1, 2, 3], "gates": [0, 1, 2], "shuffled": [3], "embedding": [0, 1], "lstm": [],
    "gru_both_ways": [], "cells": [], "multihead": [4], "encoder": [4, 8],
    "encoder_norm_first": [4, 8], "attention": [], "attention_unbound": [], "tied": [0],
    "twice": [0], "in_place": [], "mixer": [1, 2], "vit": [],
}  # fmt: skip


SLOW = {
    "resnet", "bottlenecks", "convnext", "densenet", "gru_both_ways", "cells", "multihead",
    "encoder", "encoder_norm_first",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in DROPPED]
)
def test_planted_units_are_dropped_and_no_others(name):
    net = NETS[name]
    module, graph = made(net), graph_of(net)
    assert not drop_units(module, net.inputs).dropped
    plant(module, graph, range(len(graph.free)))
    tensors = [id(tensor) for tensor in named_tensors(module).values()]
    inputs = other_inputs(net.inputs)
    before = run(module, inputs)["output"]
    report = drop_units(module, net.inputs)
    names = {axis.name: axis.index for axis in graph.free}
    assert [names[found] for found in report.dropped] == DROPPED[name]
    assert all(n == 1 for n, _ in report.dropped.values())
    torch.testing.assert_close(run(module, inputs)["output"], before, rtol=1e-4, atol=1e-5)
    if not DROPPED[name]:
        assert [id(tensor) for tensor in named_tensors(module).values()] == tensors
    assert not drop_units(module, net.inputs).dropped


def residual(units=8, unread=()):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, units), Add(nn.ReLU(), nn.Linear(units, 4), nn.ReLU(), nn.Linear(4, units)),
        nn.Linear(units, 2),
    )  # fmt: skip
    with torch.no_grad():
        for unit in unread:
            net[1].branch[1].weight[:, unit] = net[2].weight[:, unit] = 0.0
    return net


def test_a_unit_of_a_stream_goes_if_no_reader_reads_it():
    net = residual(unread=[2, 5])
    with torch.no_grad():
        net[2].weight[:, 7] = 0.0  # the branch reads it
    report = drop_units(net, FLAT)
    assert report.dropped == {"0.weight[0]": (2, 8)}
    assert (net[0].out_features, net[2].in_features) == (6, 6)
    assert net[1].branch[3].weight.shape == (6, 4)
    assert str(report).splitlines()[0] == "0.weight[0]: 2 of 8 units dropped"


def test_all_units_unread_leave_one():
    net = residual(unread=range(8))
    before = net(FLAT)
    drop_units(net, FLAT)
    assert net[0].weight.shape == (1, 3)
    torch.testing.assert_close(net(FLAT), before)


class Heads(nn.Module):
    """Attention whose code states the size of a head, and not their number."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_go_as_a_whole():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), Add(Heads()), nn.Linear(8, 2))
    with torch.no_grad():
        net[1].branch[0].o.weight[:, 2:4] = 0.0
        net[1].branch[0].o.weight[:, 5] = 0.0  # half of a head
    before = net(SEQUENCE)
    report = drop_units(net, SEQUENCE)
    assert report.dropped == {"1.branch.0.q.weight[0][0:8:2]": (1, 4)}
    assert [net[1].branch[0].get_submodule(n).weight.shape for n in "qkvo"] == [(6, 8)] * 3 + [
        (8, 6)
    ]
    torch.testing.assert_close(net(SEQUENCE), before)


def test_dimensions_of_heads_stay_where_their_number_is_a_scale():
    """Scores are divided by its root: what is left would be another function."""
    torch.manual_seed(0)

    class Scaled(Heads):
        def forward(self, x):
            q, k, v = (
                f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = nn.Sequential(nn.Linear(3, 8), Scaled(), nn.Linear(8, 2))
    with torch.no_grad():
        for own in (net[1].q, net[1].k):
            own.weight[1::2], own.bias[1::2] = 0.0, 0.0
        net[1].o.weight[:, 1::2] = 0.0  # dimensions of values are no scale
    before = net(SEQUENCE)
    report = drop_units(net, SEQUENCE)
    assert report.dropped == {"1.v.weight[0][0:2]": (1, 2)}
    assert "differs" in report.kept["1.q.weight[0][0:2]"]
    torch.testing.assert_close(net(SEQUENCE), before)


def test_sizes_in_the_code_keep_units_and_the_report_says_so():
    net = nn.Sequential(nn.Linear(3, 8), Add(Attention(8, 2)), nn.Linear(8, 2))
    with torch.no_grad():
        net[1].branch[0].o.weight[:, :4] = 0.0
        net[1].branch[0].v.weight[:4] = 0.0
    state = copy.deepcopy(net.state_dict())
    report = drop_units(net, SEQUENCE)
    assert not report.dropped
    assert "shape '[2, 4, 2, 4]' is invalid" in report.kept["1.branch.0.q.weight[0][0:8:4]"]
    assert "unread units stay: Sequential cannot be called" in str(report)
    assert all(torch.equal(net.state_dict()[name], state[name]) for name in state)


def test_positions_in_the_code_do_not_slide_to_other_units():
    """All units are positive on these inputs, so that ReLU would hide a unit in a wrong place."""

    def forward(self, x):
        h = self.up(x)
        return self.out(torch.cat([h[:, :4].relu(), h[:, 4:].abs()], 1))

    net = Function(forward, up=nn.Linear(3, 9), out=nn.Linear(9, 2))
    with torch.no_grad():
        net.up.weight.abs_()
        net.up.bias.abs_()
        net.out.weight[:, 1] = 0.0
    inputs, others = FLAT.abs(), -FLAT.abs()
    before = net(others)
    report = drop_units(net, inputs)
    assert not report.dropped
    assert report.kept == {"up.weight[0][0:4]": "the code would treat other units in their places"}
    torch.testing.assert_close(net(others), before)


def test_a_forward_that_reads_more_in_training():
    def forward(self, x):
        h = torch.relu(self.up(x))
        return self.out(h), self.other(h) if self.training else None

    net = Function(forward, up=nn.Linear(3, 5), out=nn.Linear(5, 2), other=nn.Linear(5, 2))
    with torch.no_grad():
        net.out.weight[:, 2:] = 0.0
        net.other.weight[:, 3:] = 0.0
    assert not drop_units(net, FLAT).dropped  # `other` is an occurrence in training only
    assert drop_units(net.train(), FLAT).kept == {
        "up.weight[0]": "the forward treats them in another way in training"
    }
    assert net.training


def test_units_that_training_reads_by_no_other_weights():
    def forward(self, x):
        h = torch.relu(self.up(x))
        return self.out(h) + (h.mean(-1, keepdim=True) if self.training else 0.0)

    net = Function(forward, up=nn.Linear(3, 5), out=nn.Linear(5, 2))
    with torch.no_grad():
        net.out.weight[:, 2:] = 0.0
    assert not drop_units(net, FLAT).dropped


def test_layers_with_hooks_stay():
    net = residual(unread=[3])
    nn.utils.prune.ln_structured(net[2], "weight", 0.5, n=2, dim=1)
    report = drop_units(net, FLAT)
    assert not report.dropped
    assert report.pinned["2.weight_orig[1]"] == "'2.weight_orig' is in a layer with hooks"


def test_shared_parameters():
    net = nn.ModuleDict({name: residual(unread=[1, 6]) for name in "ab"})
    ls.share(net, ls.Ties("a.*", "b.*"))
    pair = Function(lambda self, x: self.nets["a"](x) + self.nets["b"](2 * x), nets=net)
    before = pair(FLAT)
    assert drop_units(pair, FLAT).dropped == {"nets.a.0.weight[0]": (2, 8)}
    assert net["a"][0].weight is net["b"][0].weight
    ls.verify_shared(pair)
    assert net["b"][2].in_features == 6
    torch.testing.assert_close(pair(FLAT), before)
    pair.load_state_dict(pair.state_dict())


def test_weight_normalization():
    net = made(NETS["weight_norm"])
    with torch.no_grad():
        net[2].weight[:, 1:3] = 0.0
    before = net(FLAT)
    assert list(drop_units(net, FLAT).dropped.values()) == [(2, 6)]
    assert (net[0].weight.shape, net[0].out_features) == ((4, 3), 4)
    torch.testing.assert_close(net(FLAT), before)


def test_a_transposed_parameter():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3))
    ls.share(net, ls.Ties("0.weight", "2.weight.T"))
    with torch.no_grad():
        net[0].weight[4], net[0].bias[4] = 0.0, 0.0
    before = net(FLAT)
    drop_units(net, FLAT)
    assert (net[0].out_features, net[2].in_features) == (5, 5)
    assert torch.equal(net[2].weight, net[0].weight.T)
    torch.testing.assert_close(net(FLAT), before)


@pytest.mark.slow
def test_a_cut_module_is_like_any_other(tmp_path):
    net = made(NETS["resnet"])
    inputs = NETS["resnet"].inputs
    plant(net, graph_of(NETS["resnet"]), range(6))
    before = run(net, inputs)["output"]
    plain = copy.deepcopy(net)
    assert ls.compact(net, inputs) is net
    again = ls.compact(copy.deepcopy(plain), inputs)
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(net.state_dict())
    exported = torch.export.export(net.eval(), (inputs,)).module()
    compiled = torch.compile(net, backend="eager")
    for module in (net, again.eval(), copy.deepcopy(net), exported, compiled):
        torch.testing.assert_close(module(inputs), before)
    ls.save_compact(net, tmp_path / "small.safetensors")
    loaded = ls.load_compact(tmp_path / "small.safetensors", again)
    torch.testing.assert_close(loaded.eval()(inputs), before)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    assert main(["compact", str(tmp_path / "weights.pt"), str(tmp_path / "w.safetensors")]) == 0
    loaded = ls.load_compact(tmp_path / "w.safetensors", again)
    torch.testing.assert_close(loaded.eval()(inputs), before)
    net.train()(inputs).sum().backward()
    assert net[0].weight.grad.shape == (3, 3, 3, 3)


def test_compact_merges_rows_too_and_logs_the_report(caplog):
    net = residual(20, unread=range(12))
    with torch.no_grad():
        net[2].weight[:, 13:] = net[2].weight[:, 12:13]
    before = net(FLAT)
    with caplog.at_level(logging.INFO, "lit_share"):
        ls.compact(net, FLAT)
    assert isinstance(net[2], ls.CodebookLinear)
    assert net[0].weight.shape == (8, 3)
    torch.testing.assert_close(net(FLAT), before)
    assert "0.weight[0]: 12 of 20 units dropped" in caplog.text
    assert "2.weight[0]: stays as it is, as an output of the model" in caplog.text


@pytest.mark.parametrize("given", [True, False])
def test_compact_keeps_the_numbers_that_value_tie_has_made_equal(given):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    ties, x = ls.Ties("*.weight[...]"), torch.randn(8, 20)
    for _ in range(3):
        ls.apply_prox(net, "value_tie", ties, 0.05)
    values = [tie.count for tie in ls.clusters(net, ties).ties]
    assert 10 < min(values) < max(values) < 300
    with torch.no_grad():
        net[2].weight[:, 3:5] = 0.0
        before = net(x)
        whole = copy.deepcopy(net)
    compacted = ls.compact(net, x) if given else ls.compact(net)
    torch.testing.assert_close(compacted(x), before)
    kept = [i for i in range(30) if i not in (3, 4)]
    assert torch.equal(compacted[0].weight, whole[0].weight[kept])
    assert torch.equal(compacted[2].weight, whole[2].weight[:, kept])


def test_compact_without_inputs_looks_at_chains():
    net = residual(unread=[2, 5])
    assert ls.compact(net)[0].weight.shape == (8, 3)
    chain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        chain[2].weight[:, 3:] = 0.0
    assert ls.compact(chain)[0].weight.shape == (3, 3)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.up(x)) if x.sum() > 0 else self.out(self.up(x).relu())


class Random(Branching):
    def forward(self, x):
        return self.out(F.dropout(self.up(x), training=True))


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        (Branching, FLAT, r"depends on the value of a tensor.*compact without inputs"),
        (Random, FLAT, "the forward is random in evaluation mode"),
        (Branching, numbers(4, 5), "cannot be called with these inputs"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), FLAT[:1], "more than 1 value"),
        (lambda: nn.Linear(3, 2, device="meta"), FLAT, "'Linear.weight' has no numbers yet"),
    ],
)
def test_what_cannot_be_looked_at_is_an_error_and_nothing_changes(net, inputs, message):
    net = net()
    tensors = dict(net.named_parameters())
    with pytest.raises(AlignError, match=message):
        ls.compact(net, inputs)
    assert all(net.get_parameter(name) is tensor for name, tensor in tensors.items())


def test_an_interrupt_in_the_middle_leaves_the_module_whole(monkeypatch):
    net = residual(unread=[2])
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if net[0].out_features == 7:
            raise KeyboardInterrupt
        return axis_graph(*arguments, **options)

    from lit_share.alignment import _drop

    monkeypatch.setattr(_drop, "axis_graph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drop_units(net, FLAT)
    assert len(calls) == 3
    assert net[0].out_features == net[2].in_features == 8
    assert net[0].weight.shape == (8, 3)


def test_half_precision_has_its_own_tolerance():
    net = residual(unread=[2]).bfloat16()
    assert drop_units(net, FLAT.bfloat16()).dropped == {"0.weight[0]": (1, 8)}
    outputs = {"output[0]": FLAT, "output[1]": WORDS}
    assert _tolerance(outputs) == 1e-5
    assert _tolerance(outputs | {"output[2]": FLAT.bfloat16()}) == 2.0**-5


def test_statistics_count_units_that_are_always_zero():
    """What is needed says so, before a trial could."""
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias, net[2].weight.T):
            tensor[4] = 0.0
    report = drop_units(net, FLAT)
    assert report.dropped == report.kept == {}


def test_a_layer_under_two_names():
    torch.manual_seed(0)
    twice = nn.Linear(7, 7)
    module = nn.Sequential(nn.Linear(5, 7), twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(7, 2))
    with torch.no_grad():
        for layer in (module[0], twice):
            layer.weight[3] = 0.0
            layer.bias[3] = 0.0
    inputs = torch.randn(4, 5)
    before = run(module, inputs)
    drop_units(module, inputs)
    assert module[1] is module[3]
    assert module[1].weight.shape == (6, 6)
    assert torch.allclose(run(module, inputs)["output"], before["output"], atol=1e-6)


def test_complex_weights():
    torch.manual_seed(0)
    layers = [nn.Linear(*sizes, dtype=torch.complex64) for sizes in ((5, 7), (7, 2))]
    module = nn.Sequential(*layers)
    with torch.no_grad():
        module[1].weight[:, 3] = 0.0
    inputs = torch.randn(4, 5, dtype=torch.complex64)
    before = run(module, inputs)
    module = ls.compact(module, inputs)
    assert module[0].weight.shape == (6, 5)
    assert torch.allclose(run(module, inputs)["output"], before["output"], atol=1e-6)


def test_in_inference_mode():
    module = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
    with torch.no_grad():
        module[1].weight[:, 3] = 0.0
    with torch.inference_mode():
        ls.compact(module, torch.randn(4, 5))
    assert module[0].weight.shape == (6, 5)
    module(torch.randn(4, 5)).sum().backward()  # inference tensors could not be trained


def test_an_empty_batch_is_refused():
    with pytest.raises(AlignError, match="give inputs of at least one sample"):
        drop_units(nn.Linear(3, 2), torch.zeros(0, 3))


def test_one_sample_for_batch_normalization_is_refused():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(AlignError, match=r"'1' cannot be traced in .*; give inputs of sev"):
        ls.compact(module, torch.zeros(1, 3))
