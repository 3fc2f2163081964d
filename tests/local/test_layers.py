"""Layers that do not share their filters between positions, against convolutions, which do."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lit_share.local import LocallyConnected1d, LocallyConnected2d
from lit_share.metrics import sharing_stats
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Using padding='same' with even kernel"
    ),  # that it costs a copy
    # torch's own when it compiles any autograd.Function
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

LAYERS = {1: LocallyConnected1d, 2: LocallyConnected2d}
SIZES = {1: (9,), 2: (9, 8)}


def ndim(conv):
    return 1 if isinstance(conv, nn.Conv1d) else 2


def convolution(make, *sizes, **options):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return make(*sizes, dtype=torch.float64, **options)


def local(conv):
    return LAYERS[ndim(conv)].from_conv(conv, SIZES[ndim(conv)])


def batch(conv, n=3):
    rng = torch.Generator().manual_seed(5)
    return torch.randn(n, conv.in_channels, *SIZES[ndim(conv)], generator=rng, dtype=torch.float64)


def parted(layer):
    """The layer, with different filters and biases at each position."""
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
    return layer


def small():
    """A layer of 4 positions, all with the same filters, and its convolution."""
    conv = convolution(nn.Conv1d, 2, 3, 3)
    return LocallyConnected1d.from_conv(conv, 6), conv


conv1d, conv2d = (partial(convolution, make) for make in (nn.Conv1d, nn.Conv2d))
CONVOLUTIONS = [
    partial(conv1d, 2, 3, 3),
    partial(conv1d, 2, 3, 4, padding="same"),
    partial(
        conv1d,
        4,
        6,
        2,
        stride=3,
        padding=2,
        dilation=2,
        groups=2,
        bias=False,
        padding_mode="replicate",
    ),
    partial(conv1d, 2, 3, 3, padding=1, padding_mode="circular"),
    partial(conv2d, 2, 3, 3),
    partial(conv2d, 2, 3, (2, 3), stride=(3, 1), padding=(0, 2)),
    partial(conv2d, 2, 3, (4, 3), padding="same"),
    partial(conv2d, 2, 3, 3, padding="valid", dilation=(1, 2), bias=False),
    partial(conv2d, 4, 6, 3, stride=2, padding=1, groups=2),
    partial(conv2d, 3, 6, 3, padding=1, groups=3),
    partial(conv2d, 2, 3, (3, 2), padding=(2, 1), padding_mode="reflect"),
    partial(conv2d, 2, 3, 3, padding=(1, 2), padding_mode="replicate"),
    partial(conv2d, 2, 3, (2, 4), padding="same", dilation=2, padding_mode="circular"),
]
each = pytest.mark.parametrize("make", CONVOLUTIONS)


@each
def test_equal_positions_are_a_convolution(make):
    conv = make()
    layer, x = local(conv), batch(conv).requires_grad_()
    ours, theirs = layer(x), conv(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert layer.output_size == ours.shape[2:]
    assert layer.positions == len(layer.weight) == theirs[0, 0].numel()
    weights = torch.randn_like(ours)
    left, right = (torch.autograd.grad((y * weights).sum(), [x, *m.parameters()])
                   for m, y in ((layer, ours), (conv, theirs)))  # fmt: skip
    torch.testing.assert_close(left[0], right[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        [g.sum(dim=0) for g in left[1:]], list(right[1:]), rtol=1e-12, atol=1e-12
    )


@each
def test_there_and_back(make):
    conv = make()
    back = local(conv).to_conv()
    assert type(back) is type(conv)
    assert repr(back) == repr(conv)
    assert all(torch.equal(v, conv.state_dict()[k]) for k, v in back.state_dict().items())
    assert back.state_dict().keys() == conv.state_dict().keys()
    assert torch.equal(back(batch(conv)), conv(batch(conv)))


@pytest.mark.parametrize("size", [0, 1])
def test_each_position_has_filters_of_its_own(size):
    """The output at each position is that of a convolution with the position's filters."""
    conv = CONVOLUTIONS[8]()
    layer = parted(local(conv))
    y = layer(batch(conv, size))
    for p in range(layer.positions):
        here = copy.deepcopy(conv)
        here.load_state_dict({"weight": layer.weight[p], "bias": layer.bias[p]})
        expected = here(batch(conv, size)).flatten(2)[:, :, p]
        torch.testing.assert_close(y.flatten(2)[:, :, p], expected, rtol=1e-12, atol=1e-12)


def test_a_copy_and_not_the_convolution_itself():
    layer, conv = small()
    parted(layer)
    assert torch.equal(conv.weight, small()[1].weight)
    back = small()[0]
    made = back.to_conv()
    parted(back)
    assert torch.equal(made.weight, conv.weight)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_positions_that_differ_are_no_convolution(name):
    layer, _ = small()
    with torch.no_grad():
        getattr(layer, name)[2].view(-1)[0] -= 0.25
        getattr(layer, name)[3].view(-1)[1] += 0.125
    with pytest.raises(
        TieError,
        match=rf"the {name} differs by up to 0\.25 between 4 positions: tie",
    ):
        layer.to_conv()


def test_positions_are_averaged_when_asked():
    layer = parted(small()[0])
    conv = layer.to_conv(average=True)
    torch.testing.assert_close(conv.weight, layer.weight.mean(dim=0), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(conv.bias, layer.bias.mean(dim=0), rtol=1e-14, atol=1e-14)


def test_the_average_of_equal_positions_is_theirs_exactly():
    layer, conv = small()
    assert torch.equal(layer.to_conv(average=True).weight, conv.weight)


def test_a_position_that_is_not_a_number():
    layer, _ = small()
    with torch.no_grad():
        layer.weight[1, 0, 0, 0] = torch.nan
    with pytest.raises(TieError, match="differs by up to nan"):
        layer.to_conv()


def test_what_the_layer_was_is_kept():
    conv = nn.Conv2d(2, 3, 3).half().eval()
    conv.bias.requires_grad_(False)
    layer = LocallyConnected2d.from_conv(conv, 5)
    for made in (layer, layer.to_conv()):
        assert made.weight.dtype == made.bias.dtype == torch.float16
        assert (made.weight.requires_grad, made.bias.requires_grad, made.training) == (
            True,
            False,
            False,
        )
    assert layer.train().to_conv().training


def test_the_random_stream_of_conversions():
    layer, conv = small()
    before = torch.get_rng_state()
    layer.to_conv()
    LocallyConnected1d.from_conv(conv, 6)
    assert torch.equal(torch.get_rng_state(), before)


def test_fresh_positions_are_drawn_apart_as_convolutions_are():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LocallyConnected2d(4, 5, 3, input_size=9)
        conv = nn.Conv2d(4, 5, 3)
    assert not torch.equal(layer.weight[0], layer.weight[1])
    bound = 1.0 / 6.0  # of 4 · 3 · 3 inputs
    for parameter in layer.parameters():
        assert 0.95 * bound < parameter.abs().max() <= bound
    assert conv.weight.abs().max() <= bound
    torch.testing.assert_close(layer.weight.std(), conv.weight.std(), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("make", [CONVOLUTIONS[0], CONVOLUTIONS[8]])
def test_inputs_without_a_batch(make):
    conv = make()
    layer = parted(local(conv))
    assert torch.equal(layer(batch(conv)[1]), layer(batch(conv)[1:2])[0])
    torch.testing.assert_close(local(conv)(batch(conv)[1]), conv(batch(conv)[1]))


@pytest.mark.parametrize("shape", [(3, 2, 9), (3, 2, 9, 9), (3, 1, 9, 8), (2, 8, 9), (8,)])
def test_inputs_of_other_sizes(shape):
    layer = LocallyConnected2d(2, 3, 3, input_size=(9, 8))
    message = (
        r"^LocallyConnected2d has filters for each position of inputs of shape "
        r"\(batch, 2, 9, 8\), got \("
    )
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LocallyConnected2d(1, 1, 3, input_size=2),
            r"input_size=2 is too small for kernel_size=3.*\(2, 2\)",
        ),
        (
            lambda: LocallyConnected1d(1, 1, 6, input_size=3, padding=1),
            r"input_size=3 is too small.*padded.*\(5,\)",
        ),
        (
            lambda: LocallyConnected2d(1, 1, 3, (9, 9, 9)),
            r"input_size=\(9, 9, 9\) must have 2 numbers",
        ),
        (
            lambda: LocallyConnected1d(1, 1, 3, (9, 9)),
            "must have 1 numbers, as LocallyConnected1d needs",
        ),
        (
            lambda: LocallyConnected2d(3, 4, 3, 9, groups=2),
            "in_channels must be divisible by groups",
        ),
        (
            lambda: LocallyConnected2d(3, 4, 3, 9, padding="same", stride=2),
            "padding='same' is not supported",
        ),
        (
            lambda: LocallyConnected2d(3, 4, 3, 9, padding_mode="mirror"),
            "padding_mode must be one of",
        ),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("cls", "conv"),
    [
        (LocallyConnected2d, nn.Conv1d(2, 3, 3)),
        (LocallyConnected1d, nn.Conv2d(2, 3, 3)),
        (LocallyConnected2d, nn.Linear(2, 3)),
        (LocallyConnected2d, nn.ConvTranspose2d(2, 3, 3)),
        (LocallyConnected2d, type("Scaled", (nn.Conv2d,), {})(2, 3, 3)),
        (LocallyConnected2d, parametrizations.weight_norm(nn.Conv2d(2, 3, 3))),
    ],
)
def test_other_layers_are_refused(cls, conv):
    with pytest.raises(TypeError, match=rf"^{cls.__name__}.from_conv needs a Conv[12]d, got "):
        cls.from_conv(conv, 9)


# Copies and states


@pytest.mark.parametrize("make", [CONVOLUTIONS[0], CONVOLUTIONS[7], CONVOLUTIONS[11]])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_states(make, copied):
    conv = make()
    layer, fresh = parted(local(conv)), local(conv)
    assert torch.equal(copied(layer)(batch(conv)), layer(batch(conv)))
    assert repr(copied(layer)) == repr(layer)
    assert not torch.equal(fresh(batch(conv)), layer(batch(conv)))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(batch(conv)), layer(batch(conv)))


@each
@pytest.mark.parametrize("assign", [False, True])
def test_the_state_of_a_convolution_is_that_of_all_positions(make, assign):
    conv = make()
    layer = parted(local(conv))
    state = conv.state_dict()
    layer.load_state_dict(state, assign=assign)
    assert all(
        torch.equal(p, local(conv).get_parameter(name)) for name, p in layer.named_parameters()
    )
    assert all(torch.equal(v, conv.state_dict()[k]) for k, v in state.items()), (
        "the state dict is left as it was"
    )
    parted(layer)
    assert torch.equal(conv.weight, make().weight), "and the convolution"
    assert not torch.equal(layer.weight[0], layer.weight[1])


@each
def test_the_state_of_equal_positions_is_that_of_the_convolution(make):
    conv = make()
    made = local(conv).to_conv()
    for target in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.zero_()
        target.load_state_dict(local(conv).state_dict())
        assert torch.equal(target(batch(conv)), conv(batch(conv)))
        with torch.no_grad():
            target.weight.zero_()
        target.load_state_dict(conv.state_dict())
        assert torch.equal(target.weight, conv.weight), "its own state is loaded, too"


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("strict", [True, False])
def test_the_state_of_positions_that_differ_is_refused(name, strict):
    layer, _ = small()
    made = nn.Sequential(layer.to_conv())
    before = {k: v.clone() for k, v in made.state_dict().items()}
    state = {f"0.{k}": v + 1.0 for k, v in layer.state_dict().items()}
    state[f"0.{name}"][1] += 0.5
    message = rf"0\.{name} is one for all positions here, but the {name} differs by up to 0\.5"
    with pytest.raises(RuntimeError, match=message):
        made.load_state_dict(state, strict=strict)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items()), (
        "nothing may be loaded"
    )


def test_the_state_of_another_layer_is_refused_as_ever():
    made = small()[0].to_conv()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        made.load_state_dict(nn.Conv1d(2, 4, 3).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        small()[0].load_state_dict(LocallyConnected1d(2, 3, 3, 7).state_dict())


def test_compiled():
    torch._dynamo.reset()
    conv = CONVOLUTIONS[10]()
    layer = parted(local(conv)).requires_grad_(False)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch(conv)), layer(batch(conv)))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 10])
def test_exported_with_any_batch_size(index):
    conv = CONVOLUTIONS[index]()
    layer, x = parted(local(conv)).requires_grad_(False), batch(conv)
    sizes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=sizes).module()
    more = torch.cat([x, x.flip(0)])
    torch.testing.assert_close(program(more), layer(more))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of sizes
@pytest.mark.parametrize("index", [0, 10])
def test_traced(index):
    conv = CONVOLUTIONS[index]()
    layer, x = parted(local(conv)), batch(conv)
    traced = torch.jit.trace(layer, x)
    more = torch.cat([x, x.flip(0)])
    torch.testing.assert_close(traced(more), layer(more))
    gradients = [
        torch.autograd.grad(net(x).square().sum(), layer.parameters()) for net in (traced, layer)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("index", [0, 10])
def test_channels_last(index):
    """A model of images is moved to it as a whole; filters of positions have no such format."""
    conv = CONVOLUTIONS[index]()
    layer, x = parted(local(conv)), batch(conv)
    moved = nn.Sequential(copy.deepcopy(layer)).to(memory_format=torch.channels_last)
    assert moved[0].weight.shape == layer.weight.shape
    assert moved[0].weight.is_contiguous()
    torch.testing.assert_close(moved(x), layer(x))


def test_moves_and_conversions_keep_the_parameters():
    layer = small()[0]
    weight, optimizer = layer.weight, torch.optim.SGD(layer.parameters(), lr=0.1)
    assert layer.to(torch.bfloat16).weight is weight
    assert weight.dtype == torch.bfloat16
    assert optimizer.param_groups[0]["params"][0] is layer.weight
    assert layer.to_empty(device="meta").weight.is_meta
    assert layer.weight.shape == weight.shape


def test_autocast():
    layer = small()[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.ones(1, 2, 6))
    assert y.dtype == torch.bfloat16


# Counts


def test_a_convolution_has_900_times_fewer_numbers():
    """3 → 64 channels, windows of 3 × 3 on images of 32 × 32: the example of the textbooks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(LocallyConnected2d.from_conv(nn.Conv2d(3, 64, 3), 32))
    ties, numbers = Ties("0.*[:]"), 900 * (64 * 3 * 3 * 3 + 64)
    apart = sharing_stats(net)
    assert (apart.total, apart.unique, apart.compression) == (numbers, numbers, 1.0)
    tied = sharing_stats(net, ties)
    assert (tied.total, tied.unique, tied.compression) == (numbers, numbers // 900, 900.0)
    share(net, ties)
    for stats in (sharing_stats(net), sharing_stats(net, ties)):
        assert (stats.total, stats.unique, stats.compression, stats.zeros) == (
            numbers,
            numbers // 900,
            900.0,
            0,
        )
        assert stats.bytes == 4 * numbers // 900
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = 0.0
    assert (sharing_stats(net).zeros, sharing_stats(net).unique) == (900, numbers // 900 - 1)


def test_what_it_says_of_itself():
    assert repr(
        LocallyConnected1d(2, 4, 3, 10, stride=2, bias=False, padding=1, padding_mode="circular")
    ) == (
        "LocallyConnected1d(in_channels=2, out_channels=4, kernel_size=(3,), input_size=(10,), "
        "stride=(2,), padding=(1,), dilation=(1,), groups=1, bias=False, padding_mode='circular')"
    )
