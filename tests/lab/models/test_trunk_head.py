"""What every net must do; a new net gets these tests by a row in the table."""

import fnmatch

import pytest
import torch
from torch import nn

from lit_share.lab.models import CNN, MLP, TransformerClassifier

NETS = {
    "mlp": lambda: MLP((3, 4, 4), 5, hidden=(7, 6)),
    "mlp with norm": lambda: MLP((3, 4, 4), 5, hidden=(7, 6), batch_norm=True, dropout=0.1),
    "linear": lambda: MLP((3, 4, 4), 5, hidden=()),
    "cnn": lambda: CNN((3, 4, 4), 5, channels=(4, 6)),
    "cnn with norm": lambda: CNN((3, 4, 4), 5, channels=(4, 6), batch_norm=True, dropout=0.1),
    "transformer": lambda: TransformerClassifier((3, 4, 4), 5, width=8, heads=2),
    "transformer with dropout": lambda: TransformerClassifier(
        (3, 4, 4), 5, width=8, heads=2, dropout=0.1
    ),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@pytest.fixture(params=NETS)
def make(request):
    return NETS[request.param]


@pytest.fixture
def net(make):
    torch.manual_seed(0)
    return make()


@pytest.fixture
def images():
    return torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_children_are_trunk_and_head(net):
    assert [name for name, _ in net.named_children()] == ["trunk", "head"]
    assert isinstance(net.head, nn.Linear)


def test_scores_each_class(net, images):
    scores = net(images)
    assert scores.shape == (9, 5)
    assert scores.dtype == torch.float32


def test_score_of_an_image_does_not_depend_on_its_batch(net, images):
    net.eval()
    torch.testing.assert_close(net(images)[:2], net(images[:2]))


def test_every_parameter_is_trained(net, images):
    net.eval()
    net(images).square().sum().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_pattern_finds_exactly_the_normalisation(net):
    found = {name for name, _ in net.named_parameters() if fnmatch.fnmatch(name, "*norm*")}
    expected = {
        f"{module_name}.{name}"
        for module_name, module in net.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters()
    }
    assert found == expected


def test_saved_values_make_the_same_net(make, net, images):
    twin = make().eval()
    net.eval()
    assert not torch.equal(twin(images), net(images))
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin(images), net(images), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    x = torch.rand(9, 3, 4, 4)
    for name in ("mlp with norm", "cnn with norm", "transformer with dropout"):
        net = NETS[name]()
        assert not torch.equal(net(x), net(x)), name
        net.eval()
        assert torch.equal(net(x), net(x)), name
