import torch
from torch import nn

from lit_share.lab.models import MLP


def test_computes_the_textbook_formula():
    torch.manual_seed(0)
    net = MLP([6], 3, hidden=(4,))
    x = torch.rand(5, 1, 2, 3)
    hidden = (x.reshape(5, 6) @ net.trunk.linear0.weight.T + net.trunk.linear0.bias).clamp(min=0)
    torch.testing.assert_close(net(x), hidden @ net.head.weight.T + net.head.bias)


def test_is_the_growl_paper_s_net():
    net = MLP([784], 10, hidden=(300,), batch_norm=True)
    assert net.trunk.linear0.weight.shape == (300, 784)
    assert net.head.weight.shape == (10, 300)
    kinds = [type(module) for module in net.trunk]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.BatchNorm1d]


def test_no_hidden_layer_is_a_linear_model():
    net = MLP([6], 3, hidden=())
    assert [name for name, _ in net.named_parameters()] == ["head.weight", "head.bias"]
