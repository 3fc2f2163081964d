"""Modules are called, and are as before."""

import torch
from torch import nn

from lit_share.aliases import restored


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.in_place += 1
        self.replaced = self.replaced + 1
        return x + self.in_place + self.replaced


def test_modes_and_buffers_are_restored():
    module = nn.Sequential(Counts(), nn.Dropout())
    module[1].eval()
    buffers = [module[0].in_place, module[0].replaced]
    with restored(module):
        module.eval()
        assert module(torch.zeros(2)).tolist() == [2.0, 2.0]
        assert module(torch.zeros(2)).tolist() == [4.0, 4.0]
    assert [layer.training for layer in module] == [True, False]
    assert module[0].in_place is buffers[0]
    assert module[0].replaced is buffers[1]
    assert all(not buffer.any() for buffer in buffers)
