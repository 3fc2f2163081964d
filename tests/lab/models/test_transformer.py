import pytest
import torch

from lit_share.lab.models import TransformerClassifier
from lit_share.lab.models._transformer import RowTokens


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TransformerClassifier((2, 4, 3), num_classes=3, width=8, heads=2).eval()


def test_a_token_is_an_image_row():
    images = torch.rand(5, 2, 4, 3)
    tokens = RowTokens()(images)
    assert tokens.shape == (5, 4, 6)
    for row in range(4):
        torch.testing.assert_close(tokens[:, row], images[:, :, row].reshape(5, 6))


def test_takes_sequences_too(net):
    images = torch.rand(5, 2, 4, 3)
    torch.testing.assert_close(net(RowTokens()(images)), net(images))


def test_order_of_rows_matters(net):
    images = torch.rand(5, 2, 4, 3)
    assert not torch.allclose(net(images), net(images.flip(2)), atol=1e-4)
    # Without positions, attention and mean pooling cannot tell orders apart.
    torch.nn.init.zeros_(net.trunk.position.weight)
    torch.testing.assert_close(net(images), net(images.flip(2)))


def test_layers_begin_different(net):
    first, second = net.trunk.encoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)


def test_layers_begin_as_pytorch_s_own(net):
    torch.manual_seed(0)
    own = torch.nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    for layer in net.trunk.encoder.layers:
        assert {n: p.shape for n, p in layer.named_parameters()} == {
            n: p.shape for n, p in own.named_parameters()
        }


@pytest.mark.parametrize("depth", [1, 3])
def test_depth_counts_layers(depth):
    net = TransformerClassifier((4, 6), 3, width=8, heads=2, depth=depth)
    assert len(net.trunk.encoder.layers) == depth


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width=10 is not a multiple of heads=4"):
        TransformerClassifier((4, 6), 3, width=10, heads=4)


def test_layers_can_begin_equal():
    first, *others = TransformerClassifier(
        (2, 4, 3), 3, width=8, heads=2, depth=3, same_init=True
    ).trunk.encoder.layers
    assert len(others) == 2
    for other in others:
        for one, same in zip(first.parameters(), other.parameters(), strict=True):
            assert one is not same
            assert torch.equal(one, same)
