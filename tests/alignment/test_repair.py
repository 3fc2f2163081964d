"""Units of merged submodules have the statistics that they had before."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

import lit_share as ls
from lit_share import Ties
from lit_share.alignment import AlignError, align, repair, run

from ._nets import Function

PAIR = Ties("a.*", "b.*")
generator = torch.Generator().manual_seed(0)
BATCHES = list(torch.randn(23, 5, generator=generator).split(8))
IMAGES = list(torch.randn(7, 4, 6, 6, generator=generator).split(3))


def mlp(bias=True):
    return nn.Sequential(
        nn.Linear(5, 7, bias), nn.ReLU(), nn.Linear(7, 6, bias), nn.ReLU(), nn.Linear(6, 3, bias)
    )


def convolutional():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 8, 3, groups=2, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(8, 3, 1, bias=False), nn.Flatten(), nn.Linear(3 * 49, 2),
    )  # fmt: skip


def normalized():
    return nn.Sequential(
        nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 6),
        nn.BatchNorm1d(6, momentum=0.3), nn.Dropout(), nn.Linear(6, 3),
    )  # fmt: skip


def pair_of(make):
    torch.manual_seed(0)
    return nn.ModuleDict({"a": make(), "b": make()})


def equal_pair(make):
    pair = pair_of(make)
    pair["b"].load_state_dict(pair["a"].state_dict())
    return pair


def outputs_of(module, batches):
    """The outputs of each linear and convolutional layer on all batches, units first."""
    found = {}
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            found[name] = []
            layer.register_forward_hook(lambda *c, to=found[name]: to.append(c[-1].double()))
    with torch.no_grad():
        for batch in batches:
            module(batch)
    return {name: torch.cat(z).movedim(1, 0).flatten(1) for name, z in found.items()}


def moments(module, batches):
    outputs = outputs_of(copy.deepcopy(module).eval(), batches)
    return {name: (z.mean(1), z.std(1, correction=0)) for name, z in outputs.items()}


def assert_moments(module, batches, expected):
    assert expected
    for name, (mean, deviation) in moments(module, batches).items():
        assert torch.allclose(mean, expected[name][0], atol=1e-6), name
        assert torch.allclose(deviation, expected[name][1], atol=1e-6), name


def mean_moments(*members):
    return {
        name: tuple(
            torch.stack(both).mean(0) for both in zip(*(m[name] for m in members), strict=True)
        )
        for name in members[0]
    }


def average_(pair, *layers):
    """Average the members by hand, which leaves them separate."""
    first, second = (dict(pair[name].named_parameters()) for name in "ab")
    with torch.no_grad():
        for name, p in first.items():
            if not layers or name.split(".")[0] in layers:
                mean = (p + second[name]) / 2
                p.copy_(mean)
                second[name].copy_(mean)


def assert_close(module, state, atol=1e-6):
    for name, value in module.state_dict().items():
        assert torch.allclose(value, state[name], atol=atol, rtol=0), name


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(("make", "batches"), [(mlp, BATCHES), (convolutional, IMAGES)])
def test_merging_equal_members_changes_nothing(make, batches, by_name):
    pair = equal_pair(make)
    before = state_of(pair)
    if by_name:  # equal weights see other inputs
        batches = [{"a": batch, "b": 3.0 * batch + 1.0} for batch in batches]
    with repair(pair, PAIR, batches):
        ls.share(pair, PAIR)
    assert_close(pair, before, atol=0.0)


@pytest.mark.parametrize("layers", [{"0"}, {"2"}, {"0", "2", "4", "6"}])
@pytest.mark.parametrize(("make", "batches"), [(mlp, BATCHES), (convolutional, IMAGES)])
def test_halved_layers_are_restored(make, batches, layers):
    pair = equal_pair(make)
    before = state_of(pair)
    with repair(pair, PAIR, batches), torch.no_grad():
        for name, p in pair.named_parameters():
            if name.split(".")[1] in layers:
                p.mul_(0.5)
    assert_close(pair, before)


def test_weights_without_bias_are_scaled():
    pair = equal_pair(lambda: mlp(bias=False))
    before = state_of(pair)
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        for p in pair.parameters():
            p.mul_(0.25)
    assert_close(pair, before)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("make", "batches"), [(mlp, BATCHES), (convolutional, IMAGES)])
def test_merged_units_have_the_mean_statistics(make, batches, shared):
    """Of each layer; without bias, the mean is left alone."""
    pair = pair_of(make)
    expected = mean_moments(*(moments(pair[name], batches) for name in "ab"))
    parameters = dict(pair.named_parameters())
    with repair(pair, PAIR, batches):
        if shared:
            ls.share(pair, PAIR)
        else:
            average_(pair)
    for name in "ab":
        found = moments(pair[name], batches)
        for layer, (mean, deviation) in found.items():
            assert torch.allclose(deviation, expected[layer][1], atol=1e-6), layer
            if pair[name].get_submodule(layer).bias is not None:
                assert torch.allclose(mean, expected[layer][0], atol=1e-6), layer
    if shared:
        assert pair["a"][0].weight is pair["b"][0].weight
    else:
        assert all(parameters[name] is p for name, p in pair.named_parameters())
        for x, y in zip(pair["a"].parameters(), pair["b"].parameters(), strict=True):
            assert torch.equal(x, y)


def test_members_that_are_merged_in_one_layer_keep_their_own_statistics_elsewhere():
    pair = pair_of(mlp)
    own = {name: moments(pair[name], BATCHES) for name in "ab"}
    shared = mean_moments(*own.values())
    first = state_of(pair)
    with repair(pair, PAIR, BATCHES):
        average_(pair, "2")
    for name in "ab":
        assert torch.equal(pair[name][0].weight, first[f"{name}.0.weight"])
        found = moments(pair[name], BATCHES)
        for i in (0, 1):
            assert torch.allclose(found["0"][i], own[name]["0"][i], atol=1e-6)
            assert torch.allclose(found["4"][i], own[name]["4"][i], atol=1e-6)
    # The inputs of the shared layer differ, so only the mean of both has the statistics.
    found = mean_moments(*(moments(pair[name], BATCHES) for name in "ab"))
    assert torch.allclose(found["2"][0], shared["2"][0], atol=1e-6)
    assert torch.allclose(found["2"][1], shared["2"][1], atol=1e-6)
    assert torch.equal(pair["a"][2].weight, pair["b"][2].weight)
    assert torch.equal(pair["a"][2].bias, pair["b"][2].bias)


def test_own_biases_keep_own_means():
    pair = pair_of(mlp)
    own = {name: moments(pair[name], BATCHES) for name in "ab"}
    weights = Ties("a.*.weight", "b.*.weight")
    with repair(pair, weights, BATCHES):
        ls.share(pair, weights)
    for name in "ab":
        for layer, (mean, _) in moments(pair[name], BATCHES).items():
            assert torch.allclose(mean, own[name][layer][0], atol=1e-6), layer


def test_shared_biases_of_own_weights():
    pair = pair_of(mlp)
    expected = mean_moments(*(moments(pair[name], BATCHES) for name in "ab"))
    biases = Ties("a.*.bias", "b.*.bias")
    with repair(pair, biases, BATCHES):
        ls.share(pair, biases)
    found = mean_moments(*(moments(pair[name], BATCHES) for name in "ab"))
    assert pair["a"][0].bias is pair["b"][0].bias
    for layer, (mean, deviation) in found.items():
        assert torch.allclose(mean, expected[layer][0], atol=1e-6), layer
        assert torch.allclose(deviation, expected[layer][1], atol=1e-6), layer


def test_a_layer_object_in_both_members():
    pair = equal_pair(mlp)
    before = state_of(pair)
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        pair["b"][0] = pair["a"][0]
        pair["a"][0].weight.mul_(0.5)
        pair["a"][0].bias.mul_(0.5)
    assert_close(pair, before)


def test_units_that_do_not_vary_keep_their_weights():
    pair = equal_pair(mlp)
    with torch.no_grad():
        for name in "ab":
            pair[name][0].weight[2] = 0.0
            pair[name][0].bias[2] = 0.3
    before = state_of(pair)
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        for name in "ab":
            pair[name][0].weight.mul_(0.5)
            pair[name][0].bias.mul_(0.5)
    assert_close(pair, before)
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        for name in "ab":
            pair[name][0].weight[1] = 0.0
            pair[name][0].weight[2] = 1.0
        merged = state_of(pair)
    assert torch.equal(pair["a"][0].weight[1:3], merged["a.0.weight"][1:3])
    # Their mean is restored.
    mean = nn.functional.linear(torch.cat(BATCHES), before["a.0.weight"], before["a.0.bias"])
    found = pair["a"][0](torch.cat(BATCHES))
    assert torch.allclose(found.mean(0)[1:3], mean.mean(0)[1:3], atol=1e-6)


def test_layers_that_were_replaced_stay():
    pair = equal_pair(mlp)
    before = state_of(pair["a"][4])
    with repair(pair, PAIR, BATCHES):
        for name in "ab":
            pair[name][0], pair[name][2] = nn.Linear(5, 9), nn.Linear(9, 6)
        first = state_of(pair["a"][0])
    assert_close(pair["a"][0], first, atol=0.0)
    assert not torch.allclose(pair["a"][4].weight, before["weight"])


def test_weights_with_other_names_stay():
    def tied():
        net = Function(
            lambda self, x: self.out(self.hidden(self.embed(x))),
            embed=nn.Embedding(9, 5), hidden=nn.Linear(5, 5), out=nn.Linear(5, 9, bias=False),
        )  # fmt: skip
        net.out.weight = net.embed.weight
        return net

    pair = equal_pair(tied)
    tokens = [torch.arange(9).view(3, 3), torch.arange(4).view(2, 2)]
    hidden = pair["a"].hidden.weight.clone()
    with repair(pair, PAIR, tokens), torch.no_grad():
        for name in "ab":
            pair[name].embed.weight.mul_(0.5)
            pair[name].hidden.weight.mul_(0.25)
        halved = pair["a"].embed.weight.clone()
    assert torch.equal(pair["a"].embed.weight, halved)
    assert torch.allclose(pair["a"].hidden.weight, 2.0 * hidden, atol=1e-6)


def test_computed_weights_stay():
    pair = equal_pair(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3))))
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        for name in "ab":
            pair[name][0].bias.mul_(0.5)
        before = state_of(pair)
    assert_close(pair, before, atol=0.0)


def test_layers_of_a_transformer():
    """Its fused path would call no layers, and so measure nothing."""
    pair = equal_pair(lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True))
    before = state_of(pair)
    sequences = [torch.randn(3, 4, 8), torch.randn(2, 5, 8)]
    with repair(pair, PAIR, sequences), torch.no_grad():
        for name in "ab":
            for layer in (pair[name].linear1, pair[name].linear2):
                for p in layer.parameters():
                    p.mul_(0.5)
    assert_close(pair, before)


@pytest.mark.parametrize("batches", [[torch.cat(BATCHES)], BATCHES])
def test_batch_normalization_is_that_of_one_large_batch(batches):
    pair = pair_of(normalized)
    pair["b"].eval()
    with repair(pair, PAIR, batches):
        ls.share(pair, PAIR)
    for name in "ab":
        reference = copy.deepcopy(pair[name])
        reference[5].eval()
        for layer in (reference[1], reference[4]):
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None
        reference(torch.cat(batches))
        expected = state_of(reference)
        if len(batches) > 1:  # later layers follow normalization by other batches
            for entry in list(expected):
                if entry.startswith("4."):
                    expected[entry] = pair[name].state_dict()[entry]
        expected["1.num_batches_tracked"] = torch.tensor(len(batches))
        expected["4.num_batches_tracked"] = torch.tensor(len(batches))
        assert_close(pair[name], expected)
        assert [layer.momentum for layer in (pair[name][1], pair[name][4])] == [0.1, 0.3]
    assert all(layer.training for layer in pair["a"].modules())
    assert not any(layer.training for layer in pair["b"].modules())


def test_shared_statistics_of_batch_normalization_are_means():
    inputs = torch.cat(BATCHES)
    batches = [{"a": x, "b": 2.0 * x} for x in BATCHES]
    pair = pair_of(normalized)
    with repair(pair, PAIR, batches):
        ls.share(pair, PAIR, buffers=True)
    first, norm = pair["a"][0], pair["a"][1]
    assert norm.running_mean is pair["b"][1].running_mean
    both = [first(x).detach() for x in (inputs, 2.0 * inputs)]
    mean = (both[0].mean(0) + both[1].mean(0)) / 2
    assert torch.allclose(norm.running_mean, mean, atol=1e-6)
    assert torch.allclose(norm.running_var, (both[0].var(0) + both[1].var(0)) / 2, atol=1e-6)
    assert norm.num_batches_tracked == 2 * len(batches)


def test_weights_beside_batch_normalization_stay():
    pair = pair_of(normalized)
    with repair(pair, PAIR, BATCHES):
        average_(pair)
        before = state_of(pair)
    assert any(not torch.equal(v, before[n]) for n, v in pair.named_buffers())
    assert all(torch.equal(p, before[n]) for n, p in pair.named_parameters())


def test_modes_gradients_and_optimizers_stay():
    pair = pair_of(mlp)
    pair["a"][1].eval()
    modes = {name: layer.training for name, layer in pair.named_modules()}
    optimizer = torch.optim.Adam(pair.parameters())
    sum(pair[name](BATCHES[0]).sum() for name in "ab").backward()
    optimizer.step()
    states, gradients = copy.deepcopy(optimizer.state_dict()), [p.grad for p in pair.parameters()]
    with repair(pair, PAIR, BATCHES):
        average_(pair)
    assert {name: layer.training for name, layer in pair.named_modules()} == modes
    assert all(g is p.grad for g, p in zip(gradients, pair.parameters(), strict=True))
    assert str(optimizer.state_dict()) == str(states)
    assert all(p.requires_grad and p.grad_fn is None for p in pair.parameters())
    assert not any(layer._forward_hooks for layer in pair.modules())


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision(dtype, atol):
    pair = equal_pair(lambda: mlp().to(dtype))
    before = state_of(pair)
    with repair(pair, PAIR, [batch.to(dtype) for batch in BATCHES]), torch.no_grad():
        for p in pair.parameters():
            p.mul_(0.5)
    assert pair["a"][0].weight.dtype == dtype
    assert_close(pair, before, atol)


def test_mixed_precision():
    pair = equal_pair(mlp)
    before = state_of(pair)
    # Within the context, autocast keeps copies of weights.
    with torch.autocast("cpu", torch.bfloat16):
        outputs = pair["a"](BATCHES[0])
        with repair(pair, PAIR, BATCHES), torch.no_grad():
            for p in pair.parameters():
                p.mul_(0.5)
        assert torch.allclose(pair["a"](BATCHES[0]), outputs, atol=1e-2)
    assert_close(pair, before)


def test_loaders():
    """A loader may have another order each time, and batches that are lists."""
    loader = DataLoader(TensorDataset(torch.cat(BATCHES)), 4, shuffle=True)
    pair = equal_pair(mlp)
    before = state_of(pair)
    torch.manual_seed(0)
    with repair(pair, ["a.*", "b.*"], loader), torch.no_grad():
        for p in pair.parameters():
            p.mul_(0.5)
    assert_close(pair, before, 1e-5)


def test_an_empty_batch_adds_nothing():
    pair = equal_pair(mlp)
    before = state_of(pair)
    with repair(pair, PAIR, [BATCHES[0], torch.empty(0, 5)]), torch.no_grad():
        for p in pair.parameters():
            p.mul_(0.5)
    assert_close(pair, before)


def test_layers_that_return_more_than_outputs_stay():
    class WithNorm(nn.Linear):
        def forward(self, x):
            return super().forward(x), self.weight.norm()

    def net():
        return Function(lambda self, x: self.out(self.first(x)[0]), first=WithNorm(5, 4),
                        out=nn.Linear(4, 2))  # fmt: skip

    pair = equal_pair(net)
    before = state_of(pair)
    with repair(pair, PAIR, BATCHES), torch.no_grad():
        for name in "ab":
            pair[name].out.weight.mul_(0.5)
    assert_close(pair, before)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader has no batches"),
        (iter(BATCHES), "list_iterator, which can be read only once: give a list of batches"),
        ((x for x in BATCHES), "generator, which can be read only once"),
        (BATCHES[0], "the loader is one Tensor: give a list of batches"),
        ({"a": BATCHES, "b": BATCHES}, "the loader is one dict"),
        ([{"a": BATCHES[0]}], "no entry of the submodule 'b'"),
        ([torch.ones(2, 4)], "a: Sequential cannot be called with these inputs: mat1"),
        ([torch.full((2, 5), torch.nan)], "'a.0' has outputs that are not finite"),
    ],
)
def test_errors_come_before_anything_is_merged(loader, message):
    pair = pair_of(mlp)
    with pytest.raises(AlignError, match=message), repair(pair, PAIR, loader):
        pytest.fail("the context was entered")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader has no batches"),
        ([torch.cat(BATCHES), BATCHES[0][:1]], "a: .* BatchNorm1d gets one number per unit"),
    ],
)
def test_errors_of_batch_normalization_come_before_anything_is_merged(loader, message):
    pair = pair_of(normalized)
    before = state_of(pair)
    with pytest.raises(AlignError, match=message), repair(pair, PAIR, loader):
        pytest.fail("the context was entered")
    assert_close(pair, before, atol=0.0)


def test_ties_must_fit():
    pair = pair_of(mlp)
    with pytest.raises(ls.TieError, match="c"), repair(pair, ["a.*", "c.*"], BATCHES):
        pytest.fail("the context was entered")
    with pytest.raises(AlignError, match="needs two"), repair(pair, ["a.*"], BATCHES):
        pytest.fail("the context was entered")


def test_nothing_is_repaired_after_an_error():
    pair = pair_of(mlp)
    merged = copy.deepcopy(pair)
    average_(merged)

    def merge():
        with repair(pair, PAIR, BATCHES):
            average_(pair)
            raise RuntimeError("merge")

    with pytest.raises(RuntimeError, match="merge"):
        merge()
    assert_close(pair, merged.state_dict(), atol=0.0)


@pytest.mark.parametrize(("make", "batches"), [(mlp, BATCHES), (convolutional, IMAGES)])
def test_one_pass_is_exact_with_one_batch(make, batches):
    batches = [torch.cat(batches)]
    exact, quick = pair_of(make), pair_of(make)
    for pair, passes in ((exact, None), (quick, 1)):
        with repair(pair, PAIR, batches, passes=passes):
            ls.share(pair, PAIR)
    assert_close(quick, state_of(exact))


@pytest.mark.parametrize("passes", [1, 2, 3, None])
def test_each_pass_makes_one_layer_exact(passes):
    class Counted(list):
        readings = 0

        def __iter__(self):
            self.readings += 1
            return super().__iter__()

    pair, loader = pair_of(mlp), Counted(BATCHES)
    expected = mean_moments(*(moments(pair[name], BATCHES) for name in "ab"))
    with repair(pair, PAIR, loader, passes=passes):
        ls.share(pair, PAIR)
        assert loader.readings == 1
        merged = moments(pair["a"], BATCHES)
    assert loader.readings == 1 + (passes or 3)

    def errors(found):
        return [(found[name][1] / expected[name][1]).log().abs().max() for name in found]

    after = errors(moments(pair["a"], BATCHES))
    assert max(after[: passes or 3]) < 1e-6
    for left, before in zip(after[passes or 3 :], errors(merged)[passes or 3 :], strict=True):
        assert 1e-3 < left < before


def test_passes_are_positive():
    pair = pair_of(mlp)
    with pytest.raises(AlignError, match="passes must be"), repair(pair, PAIR, BATCHES, passes=0):
        pytest.fail("the context was entered")


@pytest.mark.slow
def test_the_mean_of_models_trained_apart_is_better_with_repair():
    from sklearn.datasets import load_digits

    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    x, y = images[order].float() / 16.0, labels[order]
    train, test = slice(0, 1200), slice(1200, None)

    def trained(seed):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64),
            nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
        own = torch.arange(seed, 1200, 2)
        for _ in range(60):
            for i in own[torch.randperm(600)].split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[i]), y[i]).backward()
                optimizer.step()
        return net

    def accuracy(net):
        return (run(net, x[test])["output"].argmax(1) == y[test]).float().mean().item()

    pair = nn.ModuleDict({"a": trained(0), "b": trained(1)})
    ends = [accuracy(pair[name]) for name in "ab"]
    align(pair, PAIR, x[:100])
    plain, repaired = copy.deepcopy(pair), pair
    ls.share(plain, PAIR)
    with repair(repaired, PAIR, list(x[train].split(100))):
        ls.share(repaired, PAIR)
    assert accuracy(repaired["a"]) > accuracy(plain["a"])
    assert accuracy(repaired["a"]) > min(ends) - 0.01


def test_wrapped_modules():
    pair = equal_pair(mlp)
    before = state_of(pair)
    wrapped = nn.DataParallel(pair)
    with repair(wrapped, PAIR, BATCHES), torch.no_grad():
        pair["b"][0].weight.mul_(0.5)
    assert_close(pair, before, atol=1e-5)
