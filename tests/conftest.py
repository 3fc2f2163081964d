"""What all tests have in common."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models as small as these are not worth a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
