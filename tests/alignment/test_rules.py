"""Single operations: what they keep free, and what they pin and why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_share.alignment import axis_graph, check_outputs, run
from lit_share.alignment._call import RULES, rule
from lit_share.alignment._rules import FILES, find_rule

from ._nets import Function, numbers, some_permutations

X = numbers(2, 5, 3)
INDEX = torch.tensor([2, 0, 1])

# What is done with hidden units of the shape (2, 5, 6), so that their order does not matter.
KEEP = {
    "sum": lambda h: h.sum(-1),
    "mean": lambda h: h.mean((1, 2)),
    "var": lambda h: h.var(-1),
    "amax": lambda h: h.amax(-1),
    "max": lambda h: h.max(-1).values,
    "max of all": lambda h: h.max(),
    "norm": lambda h: h.norm(dim=-1),
    "logsumexp": lambda h: h.logsumexp(-1),
    "softmax": lambda h: (h.softmax(-1) * h.log_softmax(-1)).sum(-1),
    "softmax over positions": lambda h: h.softmax(1).sum(-1),
    "cumsum over positions": lambda h: h.cumsum(1).amax(-1),
    "sort of positions": lambda h: h.sort(1).values.sum(-1),
    "argmax over positions": lambda h: h.argmax(1).sum(-1),
    "topk of positions": lambda h: h.topk(2, dim=1).values.sum(-1),
    "normalize": lambda h: F.normalize(h, dim=-1).sum(-1),
    "cosine": lambda h: F.cosine_similarity(h, h.square(), dim=-1),
    "cdist": lambda h: torch.cdist(h, h * 2),
    "matmul": lambda h: h @ h.mT,
    "outer": lambda h: torch.outer(h[0, 0], h[1, 0]).sum(1).amax(),
    "einsum": lambda h: torch.einsum("bni,bmi", h, h.exp()),
    "einsum with dots": lambda h: torch.einsum("...i,...i->...", h, h),
    "where": lambda h: torch.where(h > 0, h, torch.zeros_like(h)).sum(-1),
    "masked_fill": lambda h: h.masked_fill(h < 0, 1.0).sum(-1),
    "clamp": lambda h: h.clamp(0, 1).sum(-1),
    "relu6": lambda h: F.relu6(h).prod(-1),
    "gather": lambda h: h.gather(1, torch.zeros(2, 1, 6, dtype=torch.long)).sum(-1),
    "index of positions": lambda h: h[:, INDEX].sum(-1),
    "index_select": lambda h: h.index_select(1, INDEX).sum(-1),
    "expand": lambda h: h[:, :, None].expand(-1, -1, 4, -1).sum((2, 3)),
    "repeat": lambda h: h.repeat(1, 2, 2).sum(-1),
    "tile": lambda h: h.tile(2, 1, 1).sum(-1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, -1).sum(-1),
    "stack": lambda h: torch.stack([h, h.exp()], 1).sum(-1),
    "movedim": lambda h: h.movedim(2, 0).sum(0),
    "unbind": lambda h: h.unbind(1)[0].sum(-1),
    "flatten": lambda h: h.transpose(1, 2).flatten(1).sum(-1),
    "pool": lambda h: F.max_pool1d(h.mT, 2).sum(1),
    "interpolate": lambda h: F.interpolate(h.mT, scale_factor=2).sum(1),
    "adaptive": lambda h: F.adaptive_avg_pool1d(h.mT, 1).sum(1),
    "adaptive over units": lambda h: F.adaptive_max_pool1d(h, 1),
    "pad": lambda h: F.pad(h, (1, 2, 1, 0)).sum(-1),
    "half": lambda h: h.double().float().type_as(h).sum(-1),
    "detach": lambda h: h.detach().contiguous().clone().sum(-1),
    "dropout": lambda h: F.dropout(h, 0.5, False).sum(-1),
    "in place": lambda h: h.clone().mul_(2).relu_().add_(h).sum(-1),
    "causal": lambda h: F.scaled_dot_product_attention(h, h, h, is_causal=True).sum(-1),
    "masked": lambda h: F.scaled_dot_product_attention(h, h, h, torch.eye(5) > 0).sum(-1),
}  # fmt: skip

# Operations for which the order of the units matters.
PIN = {
    "cumsum": lambda h: h.cumsum(-1),
    "flip": lambda h: h.flip(-1),
    "roll": lambda h: h.roll(1, -1),
    "sort": lambda h: h.sort(-1).values,
    "topk": lambda h: h.topk(2).indices,
    "argmax": lambda h: h.argmax(-1),
    "max": lambda h: h.max(-1).indices,
    "select": lambda h: h[..., 2],
    "slice": lambda h: h[..., ::2],
    "index": lambda h: h[..., INDEX],
    "index_select": lambda h: h.index_select(-1, INDEX),
    "gather": lambda h: h.gather(-1, torch.zeros(2, 5, 1, dtype=torch.long)),
    "triu": lambda h: h.triu(),
    "pad": lambda h: F.pad(h, (1, 1), mode="circular"),
    "avg_pool1d": lambda h: F.avg_pool1d(h, 2),
    "upsample_nearest1d": lambda h: F.interpolate(h, scale_factor=2),
    "unbind": lambda h: h.unbind(-1)[1],
    "scaled_dot_product_attention": lambda h: F.scaled_dot_product_attention(
        h.mT, h.mT, h.mT, is_causal=True
    ),
}


def net(function):
    torch.manual_seed(0)
    return Function(lambda self, x: function(self.up(x)), up=nn.Linear(3, 6))


@pytest.mark.parametrize("name", KEEP)
def test_units_stay_free(name):
    module = net(KEEP[name])
    graph = axis_graph(module, X)
    assert [axis.name for axis in graph.free] == ["up.weight[0]"]
    before = run(module, X)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(0)))
    check_outputs(module, before, X, rtol=1e-5)


@pytest.mark.parametrize("name", PIN)
def test_units_are_pinned_with_the_reason(name):
    # Nothing after the operation needs an order.
    graph = axis_graph(net(lambda h: PIN[name](h).sum(-1)), X)
    assert graph.free == []
    reason = f"aten.{name} in the forward of Function depends on the order"
    assert graph.pinned["up.weight[0]"] == graph.pinned["up.bias[0]"] == reason


def test_an_operation_without_a_rule_pins_all_of_its_tensors():
    def forward(self, x):
        x = self.up(x)
        return self.out(self.mid(x) + torch.fft.fft(self.fft(x)).real)

    module = Function(forward, up=nn.Linear(3, 4), mid=nn.Linear(4, 6), fft=nn.Linear(4, 6),
                      out=nn.Linear(6, 2))  # fmt: skip
    graph = axis_graph(module, X)
    assert [axis.name for axis in graph.free] == ["up.weight[0]"]
    where = "in the forward of Function is not understood"
    assert graph.pinned["fft.weight[0]"] == graph.pinned["fft.bias[0]"] == f"aten.fft_fft {where}"
    assert graph.pinned["mid.bias[0]"] == graph.pinned["out.weight[1]"] == f"aten.real {where}"


def test_the_layer_is_named():
    layer = net(lambda h: h.cumsum(-1))
    graph = axis_graph(nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(6, 2)), X)
    assert graph.pinned["1.up.weight[0]"] == "aten.cumsum in layer '1' depends on the order"


def test_an_overload_that_a_rule_does_not_know_pins():
    graph = axis_graph(net(lambda h: h.view(torch.int32).sum(-1)), X)
    assert graph.pinned["up.weight[0]"].endswith("is not understood")


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        # Slices and concatenations cut the units into pieces.
        (lambda h: h[..., 1:4].exp().sum(-1) + h.sum(-1), [3, 2]),
        (lambda h: h.narrow(-1, 0, 4).exp().sum(-1) + h.sum(-1), [4, 2]),
        (lambda h: (h.tensor_split(3, -1)[1].exp() + h[..., :2]).sum(-1), [2, 2]),
        (lambda h: F.glu(h).sum(-1), [3]),
        # Reshapes split them into factors.
        (lambda h: h.unflatten(-1, (2, 3)).exp().sum(-1).amax(-1), [2, 3]),
        (lambda h: h.view(2, 5, 2, 3).amax(-2).sum(-1), [2, 3]),
        (lambda h: h.reshape(2, 5, 3, 2)[..., 0].sum(-1), [3]),
        (lambda h: F.channel_shuffle(h.mT, 2).unflatten(1, (3, 2)).amax(1).sum(1), [2, 3]),
        (lambda h: F.group_norm(h.mT, 3).exp().sum(1), [3, 2]),
        (lambda h: F.fold(F.unfold(h.mT[:, :, None], 1), (1, 5), 1).sum(1), []),
        (lambda h: F.unfold(h.mT[:, :, None], (1, 3)).sum(1), [6]),
        (lambda h: F.pixel_unshuffle(h.mT[..., None, :4].expand(-1, -1, 2, 4), 2).sum(1), [6]),
        # Slices of a fused layer that are picked one by one are apart.
        (lambda h: h.view(2, 5, 2, 3).unbind(2)[0].exp().sum(-1), [3, 3]),
        (lambda h: h.unflatten(-1, (2, 3))[:, :, 1].exp().sum(-1), [3, 3]),
    ],
)  # fmt: skip
def test_units_are_refined(function, sizes):
    module = net(function)
    graph = axis_graph(module, X)
    assert [axis.size for axis in graph.free] == sizes
    before = run(module, X)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(0)))
    check_outputs(module, before, X, rtol=1e-5)


def test_channels_of_images():
    def forward(self, x):
        return self.last(F.pixel_shuffle(self.first(x), 2))

    module = Function(forward, first=nn.Conv2d(3, 12, 1), last=nn.Conv2d(3, 2, 1))
    graph = axis_graph(module, numbers(2, 3, 4, 4))
    assert [axis.name for axis in graph.free] == ["first.weight[0][0:12:4]"]


def test_a_state_that_is_given_pins_the_units_of_all_layers():
    module = nn.LSTM(3, 4, num_layers=2)
    states = (numbers(2, 5, 4), numbers(2, 5, 4))
    graph = axis_graph(module, (numbers(6, 5, 3), states))
    assert graph.free == []
    assert graph.pinned["weight_hh_l0[1]"] == "an input of the model"


def test_slices_that_are_read_together_are_united():
    """The last states of two layers, which a sum over layers makes one."""

    def forward(self, x):
        return self.rnn(x)[1].sum(0).exp().sum(-1)

    module = Function(forward, rnn=nn.GRU(3, 4, num_layers=2))
    graph = axis_graph(module, X)
    assert [axis.size for axis in graph.free] == [4]
    before = run(module, X)
    graph.permute_(module, {0: torch.tensor([2, 0, 3, 1])})
    check_outputs(module, before, X, rtol=1e-5)


def test_some_slices_of_the_states():
    """Both directions of the last layer."""

    def forward(self, x):
        state = self.rnn(x)[1][-2:]
        return self.out(torch.cat([state[0], state[1]], -1))

    module = Function(
        forward, rnn=nn.GRU(3, 4, num_layers=2, bidirectional=True), out=nn.Linear(8, 2)
    )
    graph = axis_graph(module, X)
    assert [axis.size for axis in graph.free] == [4, 4, 4, 4]
    before = run(module, X)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(0)))
    check_outputs(module, before, X, rtol=1e-5)


def test_autocasting_inside_of_a_forward_is_looked_into():
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = self.first(x).relu()
        return self.last(x)

    module = Function(forward, first=nn.Linear(3, 6), last=nn.Linear(6, 2))
    assert [axis.size for axis in axis_graph(module, X).free] == [6]


def test_steps_of_a_recurrent_layer_stay_in_order():
    """Units that are steps of the next layer."""

    def forward(self, x):
        return self.rnn(self.up(x).mT)[0].sum(1)

    module = Function(forward, up=nn.Linear(3, 6), rnn=nn.GRU(5, 4, batch_first=True))
    graph = axis_graph(module, X)
    reason = "aten.gru in layer 'rnn' depends on the order"
    assert graph.pinned["up.weight[0]"] == reason


def test_numbers_that_are_read_from_units_pin_them():
    graph = axis_graph(net(lambda h: torch.tensor(h[0, 0].tolist()) * h), X[:1, :1])
    assert graph.free == []


def test_a_change_of_dimensions_in_place_pins():
    graph = axis_graph(net(lambda h: h.clone().transpose_(1, 2).sum(1)), X)
    assert graph.pinned["up.weight[0]"].startswith("aten.transpose in the forward")


def test_a_kernel_of_one_position_that_moves_positions_pins_them():
    """Positions are units of the layer before."""

    def forward(self, x):
        return self.conv(self.up(x).flatten(1)[:, None]).exp().sum(-1)

    for options, sizes in (({}, [6]), ({"stride": 2, "padding": 3}, [])):
        conv = nn.Conv1d(1, 1, 1, **options)
        module = Function(forward, up=nn.Linear(3, 6), conv=conv)
        assert conv(X.new_zeros(2, 1, 6)).shape == (2, 1, 6)
        assert [axis.size for axis in axis_graph(module, X[:, :1]).free] == sizes


def test_each_rule_is_one():
    assert len(FILES) == 8
    assert find_rule("conv2d", False) is RULES["conv2d"]
    assert find_rule("fft_fft", False) is None
    assert find_rule("exp", True) is find_rule("copy", False)
    with pytest.raises(KeyError, match=r"aten\.conv2d has two rules"):
        rule("conv2d")(RULES["conv2d"])
