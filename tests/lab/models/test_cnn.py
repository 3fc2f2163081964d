import pytest
import torch
from torch import nn

from lit_share.lab.models import CNN
from lit_share.local import LocallyConnected2d
from lit_share.sharing import share
from lit_share.ties import Ties

POSITIONS = Ties("trunk.conv*[:]")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 7), (8, 8), (28, 20)])
def test_takes_images_of_any_size(height, width):
    assert CNN((2, height, width), 5, channels=(3, 4, 5))(
        torch.rand(2, 2, height, width)
    ).shape == (2, 5)


def test_computes_what_its_layers_say():
    torch.manual_seed(0)
    net = CNN((1, 32, 32), 3, channels=(4,), grid=1)
    x = torch.rand(5, 1, 8, 8)
    maps = nn.functional.conv2d(x, net.trunk.conv0.weight, net.trunk.conv0.bias, padding=1).clamp(
        min=0
    )
    features = maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).mean((-1, -2))
    torch.testing.assert_close(net(x), features @ net.head.weight.T + net.head.bias)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_grid_decides_the_number_of_features(grid):
    assert CNN((1, 8, 8), 10, channels=(4, 6), grid=grid).head.in_features == 6 * grid**2


def test_coarsest_grid_does_not_see_where_something_is():
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:10, 8:10] = 1
    moved = x.roll((12, 12), dims=(2, 3))
    everywhere, placed = CNN((1, 32, 32), 3, grid=1), CNN((1, 32, 32), 3, grid=2)
    torch.testing.assert_close(everywhere(x), everywhere(moved))
    assert not torch.allclose(placed(x), placed(moved))


def test_no_convolution_is_refused():
    with pytest.raises(ValueError, match=r"channels is empty.*channels=\(16,\)"):
        CNN((1, 8, 8), 10, channels=())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (8, 8), (14, 10)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_positions_with_filters_of_their_own(height, width, batch_norm):
    """They start like a convolution's, and become one parameter once they are shared."""
    net = CNN((2, height, width), 5, channels=(3, 4, 5), local=True, batch_norm=batch_norm).eval()
    layers = [getattr(net.trunk, f"conv{i}") for i in range(3)]
    assert all(type(layer) is LocallyConnected2d for layer in layers)
    sizes = [(height, width)]
    for _ in range(2):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    assert (
        [layer.input_size for layer in layers] == [layer.output_size for layer in layers] == sizes
    )
    x = torch.rand(2, 2, height, width)
    before = net(x)
    assert before.shape == (2, 5)
    share(net, POSITIONS, where="equal")
    assert all(type(getattr(net.trunk, f"conv{i}")) is nn.Conv2d for i in range(3))
    torch.testing.assert_close(net(x), before)
    plain = CNN((2, height, width), 5, channels=(3, 4, 5), batch_norm=batch_norm).eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))


def test_positions_part_when_they_are_trained():
    net = CNN((1, 8, 8), 3, channels=(2,), local=True)
    torch.manual_seed(0)
    net(torch.rand(4, 1, 8, 8)).square().sum().backward()
    grad = net.trunk.conv0.weight.grad
    assert not torch.equal(grad[9], grad[10])


def test_positions_are_of_images_of_one_size():
    with pytest.raises(ValueError, match=r"inputs of shape \(batch, 1, 8, 8\), got \(2, 1, 9, 9\)"):
        CNN((1, 8, 8), 3, local=True)(torch.zeros(2, 1, 9, 9))
