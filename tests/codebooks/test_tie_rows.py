"""Clustering rows, and training them as one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lit_share.codebooks import CodebookConv2d, CodebookLinear, densify, tie_rows
from lit_share.compact_files import load_compact, save_compact
from lit_share.metrics import sharing_stats
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from ._nets import cnn, data, mlp, seeded


def noisy(net, layer, scale=1e-3):
    with torch.no_grad():
        weight = net[layer].weight
        weight[:, 4:8] += scale * torch.randn(
            weight[:, 4:8].shape, generator=torch.Generator().manual_seed(9)
        )
    return net


@pytest.mark.parametrize("method", ["affinity_propagation", "linkage"])
def test_a_linear_layer(method):
    net = noisy(mlp(), 0)
    before = net(data(net))
    (layer,) = tie_rows(net, Ties("0.weight"), 0.9, method)
    assert (layer.name, layer.rows, layer.zero, layer.clusters, layer.replaced) == (
        "0.weight",
        20,
        5,
        12,
        True,
    )
    assert layer.sharing == 15 / 12
    assert type(net[0]) is CodebookLinear
    assert net[0].weight.shape == (30, 12)
    torch.testing.assert_close(net(data(net)), before, rtol=0.0, atol=0.02)
    stats = sharing_stats(net)
    assert stats.total == sharing_stats(mlp()).total
    assert stats.zeros >= 5 * 30
    assert stats.unique == sharing_stats(mlp()).unique - 3 * 30


def test_a_convolution():
    net = cnn()
    (layer,) = tie_rows(net, Ties("4.weight"), 0.95)
    assert (layer.rows, layer.zero, layer.clusters) == (16, 3, 12)
    assert type(net[4]) is CodebookConv2d
    torch.testing.assert_close(net(data(net)), cnn()(data(net)), rtol=1e-10, atol=1e-10)


def test_several_layers_and_the_report():
    net = mlp()
    report = tie_rows(net, Ties("*.weight", exclude=["2.*"]), 0.95)
    assert (
        str(report)
        == "0.weight: 20 rows, 5 zero, 12 clusters\n3.weight: 30 rows, 10 zero, 20 clusters"
    )
    assert len(report) == 2
    assert [layer.replaced for layer in report] == [True, True]
    assert [c.header for c in report.__rich__().columns] == [
        "weight",
        "rows",
        "zero",
        "clusters",
        "rows / cluster",
    ]


def test_a_layer_in_which_nothing_clusters_is_left_alone():
    net = seeded(lambda: nn.Sequential(nn.Linear(40, 30)))
    layer = net[0]
    report = tie_rows(net, Ties("*.weight"), 0.99)
    assert str(report) == "0.weight: 40 rows, 0 zero, 40 clusters (left alone)"
    assert net[0] is layer


def test_rows_are_trained_as_one():
    """Against the dense layer, whose rows of a cluster get the sum of their gradients."""
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    labels, dense = net[0].assignment, copy.deepcopy(net)
    densify(dense)
    x, y = data(net), torch.randn(7, 10, dtype=torch.float64)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (net, dense))
    for _ in range(3):
        for m, optimizer in ((net, ours), (dense, theirs)):
            optimizer.zero_grad()
            (m(x) - y).square().mean().backward()
            if m is dense:
                grad = m[0].weight.grad
                summed = torch.zeros(30, 13, dtype=torch.float64).index_add(
                    1, labels.remainder(13), grad
                )
                summed[:, 12] = 0.0
                grad.copy_(summed[:, labels.remainder(13)])
            optimizer.step()
    torch.testing.assert_close(net(x), dense(x), rtol=1e-10, atol=1e-10)


def test_densify_gives_the_layers_back():
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    densify(net)
    assert type(net[0]) is nn.Linear
    assert all(torch.equal(v, mlp().state_dict()[k]) for k, v in net.state_dict().items())
    single = nn.Sequential(nn.Linear(3, 2))
    densify(single)


def test_a_module_in_two_places_is_replaced_in_both():
    layer = mlp()[0]
    net = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    tie_rows(net, Ties("a.weight"), 0.95)
    assert net["a"] is net["b"][0]
    assert type(net["a"]) is CodebookLinear


@pytest.mark.parametrize("make", [mlp, cnn])
def test_compact_files(make, tmp_path):
    net = make()
    tie_rows(net, Ties("0.weight" if make is mlp else "4.weight"), 0.95)
    save_compact(net, tmp_path / "net.safetensors")
    for fresh in (make(), copy.deepcopy(net)):
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
        load_compact(tmp_path / "net.safetensors", fresh)
        assert torch.equal(fresh(data(net)), net(data(net)))
        assert sharing_stats(fresh) == sharing_stats(net)
    save_compact(make(), tmp_path / "plain.safetensors")
    assert (tmp_path / "net.safetensors").stat().st_size < (
        tmp_path / "plain.safetensors"
    ).stat().st_size


def test_compact_files_that_do_not_fit(tmp_path):
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    save_compact(net, tmp_path / "net.safetensors")
    other = nn.Sequential(
        nn.Linear(21, 30), nn.ReLU(), nn.BatchNorm1d(30), nn.Linear(30, 10)
    ).double()
    with pytest.raises(ValueError, match="has a codebook of 20 inputs for '0', which is a Linear"):
        load_compact(tmp_path / "net.safetensors", other)
    longer = mlp()
    longer[3] = nn.Linear(30, 11).double()
    with pytest.raises(
        ValueError, match=r"has '3.weight' of shape \(10, 30\), but in the module it is \(11, 30\)"
    ):
        load_compact(tmp_path / "net.safetensors", longer)
    assert type(longer[0]) is nn.Linear, "nothing may be changed"


@pytest.mark.parametrize(
    ("build", "pattern", "message"),
    [
        (
            mlp,
            "2.weight",
            "'2.weight' is not the weight of a Linear or Conv2d but of a BatchNorm1d",
        ),
        (mlp, "0.bias", "'0.bias' is not the weight of a Linear or Conv2d"),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)),
            "*.weight",
            "convolution of 2 groups",
        ),
        (lambda: nn.Linear(20, 3), "weight", "Linear is the module itself"),
    ],
)
def test_refusals(build, pattern, message):
    net = build()
    if isinstance(net, nn.Linear):
        nn.init.zeros_(net.weight)
    with pytest.raises(TieError, match=message):
        tie_rows(net, Ties(pattern))


@pytest.mark.parametrize(("make", "pattern"), [(mlp, "0.weight"), (cnn, "4.weight")])
def test_codebooks_are_clustered_again_as_their_inputs_would_be(make, pattern):
    net, name = make(), pattern.removesuffix(".weight")
    (first,) = tie_rows(net, Ties(pattern), 0.95)
    twice, once = copy.deepcopy(net), copy.deepcopy(net)
    densify(once)
    (again,) = tie_rows(twice, Ties(pattern), 0.01, "linkage")
    (at_once,) = tie_rows(once, Ties(pattern), 0.01, "linkage")
    assert again == at_once
    assert again.clusters < first.clusters
    assert again.rows == first.rows
    left, right = twice.get_submodule(name), once.get_submodule(name)
    assert torch.equal(left.assignment, right.assignment)
    torch.testing.assert_close(left.weight, right.weight)


def test_unread_inputs_of_codebooks_stay_unread():
    net = nn.Sequential(CodebookLinear(torch.tensor([1, -1, 0, 2, 1, 2]), 3))
    with torch.no_grad():
        net[0].weight[:, 0] = 0.0
        net[0].weight[:, 2] = net[0].weight[:, 1]
    (report,) = tie_rows(net, Ties("0.weight"))
    assert (report.rows, report.zero, report.clusters) == (6, 2, 1)
    assert net[0].assignment.tolist() == [0, -1, -1, 0, 0, 0]


def test_shared_codebooks_are_refused():
    net = nn.ModuleDict({"a": mlp()[0], "b": mlp()[0]})
    tie_rows(net, Ties("*.weight"), 0.95)
    share(net, Ties("a.weight", "b.weight"))
    with pytest.raises(TieError, match=r"'a\.weight' is shared with"):
        tie_rows(net, Ties("a.weight"))


def test_shared_weights_are_refused():
    net = nn.ModuleDict({"a": nn.Linear(20, 3), "b": nn.Linear(20, 3)})
    share(net, Ties("a.*", "b.*"))
    with pytest.raises(TieError, match=r"'a\.weight' is shared with \['b\.weight', 'b\.bias'\]"):
        tie_rows(net, Ties("a.weight"))
    with pytest.raises(TieError, match="rows are tied within each weight: write one pattern"):
        tie_rows(
            nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3)}),
            Ties("a.weight", "b.weight"),
        )


def test_layers_that_others_are_the_transpose_of_are_refused():
    net = nn.ModuleDict({"a": nn.Linear(20, 30), "b": nn.Linear(30, 20)})
    with torch.no_grad():
        net["a"].weight[:, 5:] = 0.0
        net["b"].weight.copy_(net["a"].weight.T)
    share(net, Ties("a.weight", "b.weight.T"))
    with pytest.raises(TieError, match=r"'a\.weight' is shared with \['b\.weight'\]"):
        tie_rows(net, Ties("a.weight"))


def test_shared_codebooks_are_not_made_dense():
    net = nn.ModuleDict({"a": mlp()[0], "b": mlp()[0]})
    tie_rows(net, Ties("*.weight"), 0.95)
    share(net, Ties("a.weight", "b.weight"))
    with pytest.raises(TieError, match=r"call lit_share.unshare first"):
        densify(net)


def test_layers_whose_weights_are_read_by_another_module():
    """A transformer's fast path would take a codebook for a weight."""
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with pytest.raises(
        TieError, match=r"'0\.linear2\.weight' is read by TransformerEncoderLayer itself"
    ):
        tie_rows(net, Ties("*.linear2.weight"))


def test_layers_with_hooks_are_refused():
    net = mlp()
    net[0].register_forward_hook(lambda module, args, output: output + 1.0)
    with pytest.raises(TieError, match=r"'0.weight' belongs to a layer with hooks"):
        tie_rows(net, Ties("0.weight"))


def test_nothing_is_replaced_where_one_layer_cannot_be_clustered():
    net = mlp()
    with torch.no_grad():
        net[3].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^3\.weight: "):
        tie_rows(net, Ties("*.weight", exclude=["2.*"]), 0.95)
    assert type(net[0]) is nn.Linear


def test_states_with_assignments_to_rows_that_there_are_not():
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    state = net.state_dict()
    state["0.assignment"] = state["0.assignment"] + 5
    with pytest.raises(
        RuntimeError,
        match=r"0\.assignment assigns inputs to rows that a codebook of 12 does not have",
    ):
        net.load_state_dict(state)


def test_compact_files_of_a_single_layer_and_of_one_under_two_names(tmp_path):
    layer = mlp()[0]
    net = nn.ModuleDict({"a": layer, "b": layer})
    tie_rows(net, Ties("a.weight"), 0.95)
    for saved, fresh in (
        (net["a"], mlp()[0]),
        (net, nn.ModuleDict({"a": mlp()[0], "b": mlp()[0]})),
    ):
        save_compact(saved, tmp_path / "net.safetensors")
        if isinstance(fresh, nn.Linear):
            fresh = CodebookLinear(saved.assignment, 30, dtype=torch.float64)
        load_compact(tmp_path / "net.safetensors", fresh)
        assert all(torch.equal(v, saved.state_dict()[k]) for k, v in fresh.state_dict().items())


class Scaled(nn.Linear):
    def forward(self, x):
        return 10.0 * super().forward(x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Scaled(20, 30), "of a Scaled"),
        (lambda: nn.Conv2d(40, 30, 3, groups=2), "convolution of 2 groups"),
    ],
)
def test_codebooks_are_not_loaded_into_other_layers(tmp_path, layer, message):
    net = mlp()
    tie_rows(net, Ties("0.weight"), 0.95)
    save_compact(net, tmp_path / "net.safetensors")
    other = mlp()
    other[0] = layer().double()
    with pytest.raises(ValueError, match=message):
        load_compact(tmp_path / "net.safetensors", other)


def test_numbers_of_a_tensor_are_no_rows():
    message = r"^'0\.weight\[\.\.\.\]' compares numbers, and tie_rows compares rows: leave out"
    with pytest.raises(TieError, match=message):
        tie_rows(mlp(), Ties("0.weight[...]"), 0.9)
