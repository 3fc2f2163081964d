import pytest
import torch
from torch import nn

from lit_share.models import CNN


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 7), (8, 8), (28, 20)])
def test_takes_images_of_any_size(height, width):
    assert CNN((2, height, width), 5, channels=(3, 4, 5))(torch.rand(2, 2, height, width)).shape == (2, 5)


def test_computes_what_its_layers_say():
    torch.manual_seed(0)
    net = CNN((1, 32, 32), 3, channels=(4,), grid=1)
    x = torch.rand(5, 1, 8, 8)
    maps = nn.functional.conv2d(x, net.trunk.conv0.weight, net.trunk.conv0.bias, padding=1).clamp(min=0)
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
