"""What all tests have in common."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from ._warnings import ignore_warnings_of_others


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models as small as these are not worth a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_addoption(parser):
    parser.addoption(
        "--write-docs",
        action="store_true",
        help="write the pages of docs/ that are made of tables here",
    )


@pytest.fixture
def up_to_date(pytestconfig):
    """Asserts that a page of docs/ is as it would be made now, or makes it."""

    def check(name, content):
        file = Path(__file__).parents[1] / "docs" / name
        if pytestconfig.getoption("--write-docs"):
            file.write_text(content, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == content, "run pytest with --write-docs"

    return check


@pytest.fixture
def quiet():
    """For what trains with Lightning."""
    ignore_warnings_of_others()


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """Loggers and strategies leave variables behind, and files where they are not told where to."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    # W&B's own process may have ended or begun meanwhile: what says where it is must not come back.
    service = {key: value for key, value in os.environ.items() if key == "WANDB_SERVICE"}
    os.environ.clear()
    os.environ.update(
        {key: value for key, value in before.items() if key != "WANDB_SERVICE"} | service
    )


@pytest.fixture
def warm_spawn(monkeypatch):
    """Spawned processes are forked from one that has imported what takes seconds to import.

    They get the same pickled objects as in a fresh interpreter. Such are started in
    `tests/paired/test_ddp.py` and by `train.py`.
    """
    multiprocessing.set_forkserver_preload(["lit_share.callbacks", "lit_share.lab.app._processes"])
    contexts = multiprocessing.context._concrete_contexts
    monkeypatch.setitem(contexts, "spawn", contexts["forkserver"])


@pytest.fixture
def mesh():
    """A process group of one process, for sharded parameters."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def pytest_terminal_summary(terminalreporter):
    """Print what `test_house.py` has measured."""
    reports = [r for how in ("passed", "failed") for r in terminalreporter.stats.get(how, [])]
    measured = [
        v for r in reports for name, v in getattr(r, "user_properties", ()) if name == "house"
    ]
    if measured:
        terminalreporter.section("the house")
    for what, number, bound in dict.fromkeys(map(tuple, measured)):
        terminalreporter.line(f"{what:40} {number:>6}   {bound}")
