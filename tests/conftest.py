"""What all tests have in common."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models as small as these are not worth a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """Loggers and strategies leave variables behind, and files where they are not told where to."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    # W&B's own process may have ended or begun meanwhile: what says where it is must not come back.
    service = {key: value for key, value in os.environ.items() if key == "WANDB_SERVICE"}
    os.environ.clear()
    os.environ.update({key: value for key, value in before.items() if key != "WANDB_SERVICE"} | service)
