"""Submodules are permuted in place so that they correspond, or stay as they are."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_share import Ties
from lit_share.alignment import AlignError, align, axis_graph, run

INPUTS = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
PAIR = Ties("a.*", "b.*")


def net(width=7):
    return nn.Sequential(
        nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 6), nn.ReLU(),
        nn.Linear(6, 3),
    )  # fmt: skip


def shuffled(module, seed):
    """Return a copy whose units have another order."""
    other = copy.deepcopy(module)
    graph = axis_graph(other, INPUTS)
    generator = torch.Generator().manual_seed(seed)
    orders = {a.index: torch.randperm(a.size, generator=generator) for a in graph.free}
    graph.permute_(other, orders)
    return other


@pytest.fixture
def pair():
    torch.manual_seed(0)
    a = net()
    return nn.ModuleDict({"a": a, "b": shuffled(a, 1)})


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(module, state):
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_members_become_equal(pair, by):
    before, first = run(pair["b"], INPUTS), state_of(pair["a"])
    parameters = dict(pair.named_parameters())
    report = align(pair, PAIR, INPUTS, by=by)
    assert_same(pair["a"], first)
    assert_same(pair["b"], first)
    assert torch.allclose(run(pair["b"], INPUTS)["output"], before["output"], atol=1e-6)
    assert all(parameters[name] is p for name, p in pair.named_parameters())
    assert report.members == ("a", "b")
    assert report.moved > 0
    assert all(axis.after == pytest.approx(1.0) for axis in report.axes)
    assert all(axis.before < 0.99 for axis in report.axes)
    assert report.distances["0.weight"][0] > 0.1
    assert report.distances["0.weight"][1] == 0.0
    assert report.pinned["5.weight[0]"] == "an output of the model"


def test_what_corresponds_stays(pair):
    pair["b"].load_state_dict(pair["a"].state_dict())
    before = state_of(pair)
    report = align(pair, PAIR, INPUTS)
    assert report.moved == 0
    assert_same(pair, before)


@pytest.mark.parametrize("reference", ["first", "mean"])
def test_several_members(reference):
    torch.manual_seed(0)
    first = net()
    models = {"a": first} | {name: shuffled(first, seed) for seed, name in enumerate("bcd")}
    models = nn.ModuleDict(models)
    with torch.no_grad():
        for p in models.parameters():
            p += 0.01 * torch.randn_like(p)
    state = state_of(first)
    report = align(models, Ties("a.*", "b.*", "c.*", "d.*"), INPUTS, reference=reference)
    assert_same(models["a"], state)
    assert [len(axis.moved) for axis in report.axes] == [3, 3]
    for after in (report.distances[name][1] for name in ("0.weight", "3.weight")):
        assert after < 0.1


def test_gradients_and_states_of_optimizers_move_along(pair):
    """A step after the alignment is the aligned step."""
    both = []
    for aligned_first in (True, False):
        models = copy.deepcopy(pair)
        # The bias before a normalization has no gradient but rounding, which Adam would scale up.
        optimizer = torch.optim.SGD(models.parameters(), lr=0.01, momentum=0.9)

        def step(models=models, optimizer=optimizer):
            optimizer.zero_grad()
            sum(models[name](INPUTS).square().sum() for name in "ab").backward()
            optimizer.step()

        if aligned_first:
            align(models, PAIR, INPUTS)
        step()
        if not aligned_first:
            align(models, PAIR, INPUTS, optimizers=optimizer)
        step()
        both.append(state_of(models))
    for name, value in both[0].items():
        assert torch.allclose(value, both[1][name], atol=1e-5), name


def test_inputs_of_each_submodule(pair):
    report = align(pair, PAIR, {"a": INPUTS, "b": (2.0 * INPUTS,)})
    assert report.moved > 0
    with pytest.raises(AlignError, match="no entry of the submodule 'b'"):
        align(pair, PAIR, {"a": INPUTS})


def test_shared_parameters_stay(pair):
    pair["b"][0] = pair["a"][0]
    report = align(pair, PAIR, INPUTS)
    assert pair["b"][0] is pair["a"][0]
    assert [axis.name for axis in report.axes] == ["3.weight[0]"]


def test_the_report_is_a_line_and_a_table(pair):
    from rich.console import Console

    report = align(pair, PAIR, INPUTS)
    assert str(report).startswith("aligned b to a by weights: ")
    assert "in 2 axes" in str(report)
    console = Console(width=120, record=True)
    console.print(report)
    text = console.export_text()
    assert "cosine of 0.weight[0]" in text
    assert "5.weight[0] stays" in text


class Dropping(nn.Sequential):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, training=True))


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def with_b(b):
    return lambda pair: pair.update({"b": b})


BAD = {
    "one pattern": (["a.*"], lambda _: None, {}, "has one member"),
    "no star": (["a.0.weight", "b.0.weight"], lambda _: None, {}, "'a.0.weight' names no submod"),
    "one submodule": (["a.0.*", "a.0.*"], lambda _: None, {}, "two patterns|twice"),
    "other widths": (["a.*", "b.*"], with_b(net(8)), {}, r"must have one shape:\n  'a.0.weight'"),
    "another computation": (
        ["a.*", "b.*"],
        lambda pair: pair["b"].__setitem__(2, nn.Sigmoid()),
        {},
        "b: one module computes relu in layer '2' where the other computes sigmoid",
    ),
    "inputs that do not fit": (
        ["a.*", "b.*"],
        lambda _: None,
        {"inputs": torch.zeros(2, 4)},
        "a: Sequential cannot be called with these inputs",
    ),
    "dropout": (
        ["a.*", "b.*"],
        lambda pair: pair.update({"a": Dropping(*net()), "b": Dropping(*net())}),
        {},
        "a: output of Dropping differs .* the forward is random in evaluation mode",
    ),
    "control flow": (
        ["a.*", "b.*"],
        with_b(Branching(*net())),
        {},
        "b: the forward of .* depends on the value of a tensor",
    ),
    "by": (
        ["a.*", "b.*"],
        lambda _: None,
        {"by": "names"},
        "unknown by 'names': write one of 'weights', 'activations'",
    ),
    "reference": (
        ["a.*", "b.*"],
        lambda _: None,
        {"reference": "b"},
        "unknown reference 'b': write one of 'first', 'mean'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_nothing_changes(pair, case):
    patterns, change, options, message = BAD[case]
    change(pair)
    before = state_of(pair)
    with pytest.raises(ValueError, match=message):
        align(pair, Ties(*patterns), **{"inputs": INPUTS, **options})
    assert_same(pair, before)


def test_states_of_another_shape_are_refused(pair):
    optimizer = torch.optim.Adafactor(pair.parameters())
    pair["a"](INPUTS).sum().backward()
    pair["b"](INPUTS).sum().backward()
    optimizer.step()
    before = state_of(pair)
    with pytest.raises(AlignError, match=r"row_var.*Adafactor.*align before training"):
        align(pair, PAIR, INPUTS, optimizers=optimizer)
    assert_same(pair, before)


def test_changed_outputs_are_undone(pair, monkeypatch):
    """A graph that is wrong cannot pass, as outputs are compared."""
    from lit_share.alignment import _align

    def wrong(module, inputs, **options):
        # The classes are said to be free, which they are not.
        class Open(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = module

            def forward(self, x):
                return self.inner(x).sum(-1)

        graph = axis_graph(Open(), inputs)
        rename = {name.removeprefix("inner."): v for name, v in graph.dimensions.items()}
        shapes = {name.removeprefix("inner."): v for name, v in graph.shapes.items()}
        return replace(graph, dimensions=rename, shapes=shapes)

    monkeypatch.setattr(_align, "axis_graph", wrong)
    with torch.no_grad():
        pair["b"][5].weight.copy_(pair["b"][5].weight[[2, 0, 1]])
        pair["b"][5].bias.copy_(pair["b"][5].bias[[2, 0, 1]])
    before = state_of(pair)
    with pytest.raises(AlignError, match=r"nothing was changed: .*5.weight\[0\] cannot be perm"):
        align(pair, PAIR, INPUTS)
    assert_same(pair, before)


def test_parameters_of_other_layers_stay():
    torch.manual_seed(0)
    pair = nn.ModuleDict({"a": net(), "b": net(), "other": net()})
    pair["other"][3].weight = pair["b"][3].weight
    pair["again"] = pair["b"]  # computes the same
    before = run(pair["other"], INPUTS)
    report = align(pair, PAIR, INPUTS)
    assert torch.equal(run(pair["other"], INPUTS)["output"], before["output"])
    assert report.axes == ()
    assert "not read by the members alone" in str(report)
    pair["other"][3].weight = nn.Parameter(pair["b"][3].weight.detach().clone())
    assert align(pair, PAIR, INPUTS).moved > 0


def test_expanded_parameters():
    torch.manual_seed(0)
    pair = nn.ModuleDict({"a": net(), "b": net()})
    for member in pair.values():
        member[0].bias = nn.Parameter(torch.ones(1).expand(7), requires_grad=False)
        member[0].weight = nn.Parameter(torch.randn(7, 1).expand(7, 5), requires_grad=False)
    before = run(pair["b"], INPUTS)
    assert align(pair, PAIR, INPUTS).moved > 0
    assert torch.allclose(run(pair["b"], INPUTS)["output"], before["output"], atol=1e-6)


def test_optimizers_may_be_any_iterable(pair):
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0, momentum=0.9)
    pair["b"](INPUTS).square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[pair["b"][0].weight]["momentum_buffer"]
    assert align(pair, PAIR, INPUTS, optimizers=iter([optimizer])).moved > 0
    assert torch.equal(momentum, pair["b"][0].weight.grad)
    with pytest.raises(TypeError, match=r"optimizers must be those of .* got a str"):
        align(pair, PAIR, INPUTS, optimizers="adam")


def test_wrapped_modules(pair):
    assert align(nn.DataParallel(pair), PAIR, INPUTS).moved > 0


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_defaults_of_torch(pair, by):
    """Modules are on the host, whatever the default device and type are."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert align(pair, PAIR, INPUTS, by=by).moved > 0
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("inputs", "by", "message"),
    [
        (INPUTS[:0], "weights", "a: .* give inputs of at least one sample"),
        (INPUTS[:1], "activations", "give several different samples"),
        (INPUTS * float("nan"), "activations", "give several different samples"),
    ],
)
def test_inputs_that_say_nothing(pair, inputs, by, message):
    before = state_of(pair)
    with pytest.raises(AlignError, match=message):
        align(pair, PAIR, inputs, by=by)
    assert_same(pair, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training(pair, value):
    with torch.no_grad():
        pair["b"][3].weight[0, 0] = value
    before = state_of(pair["a"])
    with pytest.raises(AlignError, match=r"b: '3\.weight' has numbers that are infinite"):
        align(pair, PAIR, INPUTS)
    assert_same(pair["a"], before)
