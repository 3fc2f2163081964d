import pytest
import torch

from ._nets import NETS


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
