"""Locally connected layers as functions, against torch's patches and convolutions."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_share.local import locally_connected, output_size


def reference(x, weight, bias, stride=(1, 1), dilation=(1, 1), groups=1):
    """Patches by `F.unfold`, and a sum over each."""
    positions, outputs, inputs, *kernel = weight.shape
    patches = F.unfold(x, kernel, dilation, 0, stride).view(
        len(x), groups, inputs * kernel[0] * kernel[1], positions
    )
    filters = weight.view(positions, groups, outputs // groups, -1)
    y = torch.einsum("bgip,pgoi->bgop", patches, filters).reshape(len(x), outputs, positions)
    if bias is not None:
        y = y + bias.T
    size = output_size(tuple(x.shape[2:]), tuple(kernel), stride, dilation)
    return y.view(len(x), outputs, *size)


@st.composite
def cases(draw):
    """Options, and tensors that fit them."""
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    room = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    height, width = (d * (k - 1) + 1 + r for k, d, r in zip(kernel, dilation, room, strict=True))
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    batch = draw(st.integers(1, 3))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    rows, columns = output_size((height, width), kernel, stride, dilation)

    def random(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()

    x = random(batch, groups * inputs, height, width)
    weight = random(rows * columns, groups * outputs, inputs, *kernel)
    bias = random(rows * columns, groups * outputs) if draw(st.booleans()) else None
    return (x, weight, bias), {"stride": stride, "dilation": dilation, "groups": groups}


def example(bias=True, groups=1, dtype=torch.float64, batch=2):
    """Images of 4 × 5, 2 channels and 3 outputs per group: 2 × 2 positions of a 2 × 3 window."""
    rng = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()

    x, weight = random(batch, 2 * groups, 4, 5), random(4, 3 * groups, 2, 2, 3)
    return x, weight, random(4, 3 * groups) if bias else None


STRIDE = {"stride": (2, 2)}


def assert_same_with_gradients(function, expected, tensors, tolerance=1e-12):
    """Two functions have the same value, and the same gradients with respect to the tensors."""
    ours, theirs = function(), expected()
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(ours.shape, generator=rng, dtype=torch.float64).to(ours)
    left, right = (torch.autograd.grad((y * weights).sum(), tensors) for y in (ours, theirs))
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@given(cases())
def test_patches_times_filters(case):
    inputs, options = case
    tensors = [t for t in inputs if t is not None]
    assert_same_with_gradients(
        lambda: locally_connected(*inputs, **options),
        lambda: reference(*inputs, **options),
        tensors,
    )


@given(cases(), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_equal_positions_are_a_convolution(case, padding):
    (x, weight, bias), options = case
    down, across = padding
    size = tuple(F.pad(x, (across, across, down, down)).shape[2:])
    positions = math.prod(
        output_size(size, tuple(weight.shape[3:]), options["stride"], options["dilation"])
    )

    def local(x, weight, bias):
        biases = None if bias is None else bias.expand(positions, -1)
        filters = weight.expand(positions, *weight.shape)
        return locally_connected(F.pad(x, (across, across, down, down)), filters, biases, **options)

    one = [x, weight[0], None if bias is None else bias[0]]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        inputs = [None if t is None else t.detach().to(dtype).requires_grad_() for t in one]
        assert_same_with_gradients(
            lambda inputs=inputs: local(*inputs),
            lambda inputs=inputs: F.conv2d(*inputs, padding=padding, **options),
            [t for t in inputs if t is not None],
            tolerance,
        )


@settings(max_examples=30)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_output_size_counts_the_places_of_a_window(size, kernel, stride, dilation):
    counts = tuple(
        sum(start % s == 0 for start in range(n - d * (k - 1)))
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    )
    assert output_size(size, kernel, stride, dilation) == counts


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(bias, groups):
    inputs = example(bias, groups)

    def function(*tensors):
        return locally_connected(*tensors, *([] if bias else [None]), stride=(2, 2), groups=groups)

    tensors = [t for t in inputs if t is not None]
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_some_inputs_require_a_gradient(which):
    inputs = [t.detach().requires_grad_(i in which) for i, t in enumerate(example())]
    wanted = [inputs[i] for i in which]
    assert_same_with_gradients(
        lambda: locally_connected(*inputs, **STRIDE), lambda: reference(*inputs, **STRIDE), wanted
    )
    locally_connected(*inputs, **STRIDE).sum().backward()
    assert [t.grad is not None for t in inputs] == [i in which for i in range(3)]


def test_nothing_requires_a_gradient():
    inputs = [t.detach() for t in example()]
    assert not locally_connected(*inputs, **STRIDE).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """It computes in the lower precision; gradients have the parameters', as a convolution's."""
    inputs = example(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        y = locally_connected(*inputs, **STRIDE)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), reference(*inputs, **STRIDE), rtol=0.02, atol=0.05)
    y.float().square().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)
    expected = torch.autograd.grad(reference(*inputs, **STRIDE).square().sum(), inputs)
    for tensor, grad in zip(inputs, expected, strict=True):
        assert (tensor.grad - grad).norm() < 0.02 * grad.norm()


def test_autocast_leaves_double_precision_alone():
    inputs = example()
    with torch.autocast("cpu", torch.bfloat16):
        y, theirs = locally_connected(*inputs, **STRIDE), F.conv2d(inputs[0], inputs[1][0])
    assert y.dtype == theirs.dtype == torch.float64


def test_low_precision_without_autocast():
    y = locally_connected(*example(dtype=torch.bfloat16), **STRIDE)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), reference(*example(), **STRIDE), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("groups", [1, 2])
def test_per_sample_gradients(groups):
    x, weight, bias = (t.detach() for t in example(groups=groups))

    def loss(function, weight, bias, image):
        return function(image.unsqueeze(0), weight, bias, groups=groups, **STRIDE).square().sum()

    def gradients(function):
        grad = torch.func.grad(lambda *args: loss(function, *args), argnums=(0, 1, 2))
        return torch.func.vmap(grad, in_dims=(None, None, 0))(weight, bias, x)

    torch.testing.assert_close(gradients(locally_connected), gradients(reference))
    one = torch.func.grad(lambda *args: loss(locally_connected, *args))(weight, bias, x[1])
    torch.testing.assert_close(gradients(locally_connected)[0][1], one)


def test_an_ensemble_by_vmap():
    x, weight, bias = (t.detach() for t in example())
    filters = torch.stack([weight, weight.flip(0), 2.0 * weight])
    y = torch.func.vmap(lambda w: locally_connected(x, w, bias, **STRIDE))(filters)
    torch.testing.assert_close(y, torch.stack([reference(x, w, bias, **STRIDE) for w in filters]))


def test_memory_in_another_order():
    x, weight, bias = (t.detach() for t in example())
    apart = [
        x.contiguous(memory_format=torch.channels_last).requires_grad_(),
        torch.stack([weight, weight], dim=-1)[..., 0].requires_grad_(),
        bias.T.contiguous().T.requires_grad_(),
    ]
    assert not any(t.is_contiguous() for t in apart)
    assert_same_with_gradients(
        lambda: locally_connected(*apart, **STRIDE), lambda: reference(*apart, **STRIDE), apart
    )
    torch.testing.assert_close(locally_connected(x.flip(-1), weight, bias, **STRIDE),
                               reference(x.flip(-1), weight, bias, **STRIDE))  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch, groups):
    inputs = example(groups=groups, batch=batch)
    y = locally_connected(*inputs, groups=groups, **STRIDE)
    assert y.shape == (batch, 3 * groups, 2, 2)
    y.square().sum().backward()
    assert [t.grad.shape for t in inputs] == [t.shape for t in inputs]
    if batch == 0:
        assert not any(t.grad.any() for t in inputs)


@pytest.mark.parametrize("positions", [1, 3, 5])
def test_wrong_number_of_filters(positions):
    x, weight, _ = example()
    with pytest.raises(
        ValueError, match=rf"^{positions} filters for 2 × 2 positions of an image of \(4, 5\)$"
    ):
        locally_connected(x, weight[:1].expand(positions, -1, -1, -1, -1), None, **STRIDE)


# torch's own when it compiles any autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend):
    torch._dynamo.reset()
    inputs = example(groups=2)
    options = {"groups": 2, **STRIDE}
    compiled = torch.compile(locally_connected, backend=backend, fullgraph=True)
    assert_same_with_gradients(
        lambda: compiled(*inputs, **options), lambda: reference(*inputs, **options), inputs
    )


def test_inputs_are_left_alone():
    inputs = example()
    before = [t.detach().clone() for t in inputs]
    locally_connected(*inputs, **STRIDE).sum().backward()
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))


def test_complex_numbers():
    x, weight, bias = (
        torch.randn(s, dtype=torch.complex128, requires_grad=True)
        for s in ((2, 1, 2, 2), (4, 3, 1, 1, 1), (4, 3))
    )
    assert torch.autograd.gradcheck(locally_connected, (x, weight, bias))


def test_meta_device():
    x, weight, bias = (tensor.detach().to("meta") for tensor in example())
    assert locally_connected(x, weight, bias, **STRIDE).shape == (2, 3, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, weight, bias: (x[:, :1], weight, bias), "1 channels for filters of 1 × 2"),
        (lambda x, weight, bias: (x, weight, bias.T), "a bias must be of shape (4, 3), got (3, 4)"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        locally_connected(*change(*example()), **STRIDE)
