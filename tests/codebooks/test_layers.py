"""Layers that hold one row for each cluster."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from lit_share.codebooks import CodebookConv2d, CodebookLinear
from lit_share.codebooks._layers import (
    dense_weight,
    sum_clusters,
    with_codebook,
    without_codebook,
)

A = torch.tensor([2, 0, -1, 1, 0, 2, -1, 2])


def linear(**options):
    return CodebookLinear(A, 5, dtype=torch.float64, **options)


def conv(**options):
    return CodebookConv2d(A, 5, 3, dtype=torch.float64, **options)


def batch(layer, *leading):
    shape = (8, 9, 9) if isinstance(layer, nn.Conv2d) else (8,)
    return torch.randn(*(leading or (4,)), *shape, dtype=torch.float64, requires_grad=True)


LAYERS = [
    linear,
    lambda: linear(bias=False),
    conv,
    lambda: conv(stride=2, padding=1, bias=False),
    lambda: conv(padding=2, dilation=2, padding_mode="circular"),
    lambda: conv(padding="same", padding_mode="reflect"),
]
each = pytest.mark.parametrize("make", LAYERS)


@each
def test_outputs_and_gradients_are_those_of_the_dense_layer(make):
    layer = make()
    dense, x = without_codebook(layer), batch(layer)
    assert type(dense) in (nn.Linear, nn.Conv2d)
    ours, theirs = layer(x), dense(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    (dx,) = torch.autograd.grad((ours * weights).sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), x, retain_graph=True)
    torch.testing.assert_close(dx, expected, rtol=1e-12, atol=1e-12)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    rows = dense.weight.grad.transpose(0, 1)
    summed = torch.zeros_like(rows[:3]).index_add(0, A[A >= 0], rows[A >= 0])
    torch.testing.assert_close(layer.weight.grad.transpose(0, 1), summed, rtol=1e-12, atol=1e-12)


@each
def test_gradcheck(make):
    layer = make()
    x = batch(layer, 2)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, x), (x, layer.weight)
    )


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_states(make, copied):
    layer, fresh = make(), make()
    x = batch(layer)
    assert torch.equal(copied(layer)(x), layer(x))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert {"weight", "assignment"} <= layer.state_dict().keys()


@each
def test_compiled(make):
    layer = make()
    x = batch(layer)
    torch.testing.assert_close(
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x)
    )


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_leading_dimensions(leading):
    layer = linear()
    x = torch.randn(*leading, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), without_codebook(layer)(x))


def test_images_without_a_batch():
    layer = conv()
    x = torch.randn(8, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), without_codebook(layer)(x))


def test_inputs_without_a_cluster_are_not_read():
    x = torch.ones(1, 8)
    x[:, A < 0] = torch.nan
    assert sum_clusters(x, A, 3, dim=-1).tolist() == [[2.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    ("make", "shape", "dim"),
    [
        (linear, (4, 7), -1),
        (linear, (4, 9), -1),
        (linear, (8, 4), -1),
        (linear, (), -1),
        (conv, (4, 7, 9, 9), -3),
        (conv, (4, 9, 9, 9), -3),
        (conv, (9, 9, 9), -3),
        (conv, (8, 9), -3),
    ],
)
def test_inputs_of_other_widths(make, shape, dim):
    """More of them would be summed into nothing, fewer would lack some: neither may pass."""
    message = f"a codebook of 8 inputs needs as many along dim {dim}, got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make()(torch.zeros(shape, dtype=torch.float64))


def test_equal_rows_are_their_mean_exactly():
    layer = nn.Linear(8, 5)
    with torch.no_grad():
        for k in range(3):
            layer.weight[:, k == A] = layer.weight[:, k == A][:, :1]
        layer.weight[:, A < 0] = 0.0
    assert torch.equal(dense_weight(with_codebook(layer, A)), layer.weight)
    assert torch.equal(without_codebook(with_codebook(layer, A)).weight, layer.weight)


def test_means():
    layer = nn.Linear(8, 5, dtype=torch.float64)
    for k in range(3):
        expected = layer.weight[:, k == A].mean(dim=1)
        torch.testing.assert_close(with_codebook(layer, A).weight[:, k], expected)


def test_what_the_layer_was_is_kept():
    layer = nn.Conv2d(8, 5, 3, stride=2, padding=1, bias=False).half().eval().requires_grad_(False)
    made = with_codebook(layer, A)
    assert (made.stride, made.padding, made.bias, made.training) == ((2, 2), (1, 1), None, False)
    assert made.weight.dtype == torch.float16
    assert not made.weight.requires_grad


def test_the_random_stream_is_left_alone():
    layer, codebook = nn.Linear(8, 5), linear()
    before = torch.get_rng_state()
    with_codebook(layer, A)
    without_codebook(codebook)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_of_zeros_has_one_row():
    layer = nn.Linear(8, 5)
    nn.init.zeros_(layer.weight)
    made = with_codebook(layer, torch.full((8,), -1))
    assert made.weight.shape == (5, 1)
    assert not made.weight.requires_grad, "zero rows stay zero"
    assert torch.equal(made(torch.ones(2, 8)), layer(torch.ones(2, 8)))


@pytest.mark.parametrize(
    "assignment",
    [torch.tensor([0.0, 1.0]), torch.tensor([[0]]), torch.tensor([-2, 0]), torch.tensor([-1, -1])],
)
def test_wrong_assignments(assignment):
    with pytest.raises(ValueError, match="an assignment must be int64 of one dimension"):
        CodebookLinear(assignment, 3)


def test_what_it_says_of_itself():
    assert (
        repr(linear())
        == "CodebookLinear(inputs=8, clusters=3, in_features=3, out_features=5, bias=True)"
    )
