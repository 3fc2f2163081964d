"""What needs two processes: all of it in one pair of them, as starting them takes longer than training.

Run as `python -m survival._two_processes DIRECTORY` in each process, with the variables that torchrun sets.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lit_share import TieError, Ties, share

from ._modules import CASES, EQUAL_UNITS, PLACES, SAMPLES, SHARDED, assert_trained, data, fit, sharing
from ._quiet import ignore_warnings_of_others

HALF_BATCH = SAMPLES // 2


def ddp(case, place, checkpointed=False, idle=False, **options):
    module = PLACES[place](case, checkpointed=checkpointed, idle=idle)
    fit(module, sharing(case), batch_size=HALF_BATCH, devices=2, strategy=DDPStrategy(**options))
    assert_trained(module)


def fit_sharded(module, save_distributed_checkpoint=False, **options):
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint
    )
    return fit(module, sharing(module.case), batch_size=HALF_BATCH, devices=2, strategy=strategy, **options)


def fsdp2(case, place):
    module = SHARDED[place](case)
    if case == EQUAL_UNITS:
        with pytest.raises(TieError, match=r"which fully_shard (has spread|cannot divide)"):
            fit_sharded(module)
        with pytest.raises(TieError, match="'weight' of Linear shares only some of its units"):
            share_and_shard(case)
    else:
        fit_sharded(module)
        assert_trained(module)


def share_and_shard(case):
    """Without the callback, and without Lightning."""
    module = Around(case)
    share(module.net, CASES[case].ties, where="equal")
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    module(*data())


def fsdp2_resume(case, place, each=False, meta=False):
    """Checkpoints of one file, or of a file of each process."""
    first, second = SHARDED[place](case), SHARDED[place](case, scrambled=True, meta=meta)
    path = f"{case} {place} {each} {meta}.ckpt"
    fit_sharded(first, each, epochs=1).save_checkpoint(path)
    fit_sharded(second, each, ckpt_path=path)
    assert_trained(second)


# Columns of the matrix.
CELLS = {
    "DDP": ddp,
    "DDP unused": partial(ddp, idle=True, find_unused_parameters=True),
    "DDP static": partial(ddp, checkpointed=True, static_graph=True),
    "FSDP2": fsdp2,
    "FSDP2 resume": fsdp2_resume,
    "FSDP2 shards": partial(fsdp2_resume, each=True),
    "FSDP2 meta": partial(fsdp2_resume, meta=True),
}


def cells():
    for column, case, place in product(CELLS, CASES, PLACES):
        # What shares only some units is refused by FSDP2, so it has no checkpoints.
        if case != EQUAL_UNITS or not column.startswith("FSDP2 "):
            yield column, case, place


# Refusals


class Around(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.case, self.net = case, nn.Module()
        for name, part in CASES[case].parts().items():
            self.net.add_module(name, part)

    def forward(self, *batch):
        return CASES[self.case].loss(self.net, *batch)


def tie_after_sharding(case, forward=False, inside=False):
    mesh, module = init_device_mesh("cpu", (2,)), Around(case)
    fully_shard(module, mesh=mesh)
    if forward:
        with torch.no_grad():
            module(*data())
        # Or else there is nothing to be tested.
        assert not any(isinstance(p, distributed.tensor.DTensor) for p in module.parameters())
    ties = CASES[case].ties
    if not inside:
        ties = Ties(*(f"net.{pattern.text}" for pattern in ties.patterns))
    with pytest.raises(TieError, match=r"'(net\.)?(a\.0|enc)\.weight' is already sharded"):
        share(module.net if inside else module, ties)


REFUSALS = {
    "sharded": tie_after_sharding,
    "sharded, after a forward pass": partial(tie_after_sharding, forward=True),
    "inside a sharded module": partial(tie_after_sharding, inside=True),
    "inside a sharded module, after a forward pass": partial(tie_after_sharding, forward=True, inside=True),
}


# The processes


def everything():
    for column, case, place in cells():
        yield f"{column} | {case} | {place}", partial(CELLS[column], case, place)
    for what, case in product(REFUSALS, CASES):
        yield f"{what} | {case}", partial(REFUSALS[what], case)


def run_here(directory):
    """Run everything in one of the processes."""
    warnings.simplefilter("error")
    ignore_warnings_of_others()
    torch.set_num_threads(1)
    # Where one process fails and the other waits for it.
    distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
    with Path(directory, f"{distributed.get_rank()}.jsonl").open("w") as results:
        for what, function in everything():
            try:
                function()
                error = None
            except BaseException:
                error = traceback.format_exc()
            print(json.dumps([what, error]), file=results, flush=True)
    distributed.destroy_process_group()


def run_in_two(directory):
    """Run everything in two processes.

    Returns:
        The tracebacks of what failed, and ``None`` for what did not.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [*map(str, Path(__file__).parents[1:3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "survival._two_processes", str(directory)]
    started = []
    for rank in range(2):
        with Path(directory, f"{rank}.log").open("w") as log:
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "GROUP_RANK": "0"}
            environment = os.environ | common | variables
            started.append(subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log))
    try:
        # What they did not get to is told below.
        with suppress(subprocess.TimeoutExpired):
            for process in started:
                process.wait(timeout=240)
    finally:
        for process in started:
            process.kill()
            process.wait()
    errors: dict[str, str | None] = {}
    for rank in range(2):
        results = Path(directory, f"{rank}.jsonl")
        lines = results.read_text().splitlines() if results.exists() else []
        got = dict(map(json.loads, lines))
        log = Path(directory, f"{rank}.log").read_text()[-2000:]
        for what, _ in everything():
            error = got.get(what, f"process {rank} did not get there:\n{log}")
            errors[what] = errors.get(what) or error
    return errors


if __name__ == "__main__":
    run_here(sys.argv[1])
