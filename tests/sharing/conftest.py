"""A process group of one process, for sharded parameters."""

import pytest
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh


@pytest.fixture
def mesh():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()
