"""What needs two processes: all of it in one pair of them, as starting them takes longer than training.

Run as `python -m modes._two_processes DIRECTORY` in each process, with the variables that torchrun sets.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed.tensor import DTensor

from lit_share import TieError

from ._modules import (
    Lit,
    Sharded,
    ShardedEach,
    ShardedTwoOptimizers,
    ShardedValidated,
    TwoOptimizers,
    assert_trained,
    fit,
)
from ._quiet import ignore_warnings_of_others
from ._reference import HARD, STRATEGIES, Mode

# What has no prox on sharded parameters.
UNSHARDED = {
    "exact_tie": r'a\.0\.weight, b\.0\.weight: norm="l1" with groups="element" does not work on sharded parameters yet',
    "growl": r'a\.0\.weight: norm="owl" with groups="input" does not work on sharded parameters yet',
}


def ddp(row, module=None, mode=None, **options):
    made = Lit(mode or Mode(), **(module or {}))
    assert_trained(row, made, fit(row, made, devices=2, strategy=DDPStrategy(**options)))


def fsdp2(row, kind=Sharded, mode=None, monitor=False, sanity=0, **options):
    module = kind(mode or Mode(), **options)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    train = partial(fit, row, module, monitor=monitor, devices=2, strategy=strategy, num_sanity_val_steps=sanity)
    if row in UNSHARDED:
        with pytest.raises(ValueError, match=UNSHARDED[row]):
            train()
        return
    if row == HARD and kind is ShardedEach:
        with pytest.raises(TieError, match=r"'a\.0\.weight' is already sharded"):
            train()
        return
    two = row == HARD and isinstance(module, TwoOptimizers)
    told = pytest.warns(UserWarning, match="were given to several optimizers, whose options differ")
    with told if two else nullcontext():
        trainer = train()
    # Or else there is nothing to be tested.
    owned = [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert all(isinstance(p, DTensor) for p in owned)
    assert any(p.to_local().numel() == 0 for p in owned) == (module.outputs == 1 and distributed.get_rank() == 1)
    assert_trained(row, module, trainer)


def fsdp2_resume(row):
    """Checkpoints of one file."""
    if row in UNSHARDED:
        fsdp2(row)
        return
    strategies = [
        ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
        for _ in range(2)
    ]
    first, second = Sharded(Mode(epochs=2)), Sharded(Mode(epochs=2))
    options = {"monitor": False, "devices": 2}
    fit(row, first, max_epochs=1, strategy=strategies[0], **options).save_checkpoint(f"{row}.ckpt")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.fill_(7.0)
    trainer = fit(row, second, ckpt_path=f"{row}.ckpt", strategy=strategies[1], **options)
    assert_trained(row, second, trainer)


# Columns of the matrix.
THERE = {
    "DDP": ddp,
    "DDP unused": partial(ddp, module={"idle": True}, find_unused_parameters=True),
    "DDP static": partial(ddp, module={"checkpointed": True}, static_graph=True),
    "DDP view": partial(ddp, gradient_as_bucket_view=True),
    "DDP accum.": partial(ddp, mode=Mode(accumulate=4, epochs=2)),
    "FSDP2": fsdp2,
    "FSDP2 each": partial(fsdp2, kind=ShardedEach),
    "FSDP2 valid.": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2)),
    "FSDP2 sanity": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2), sanity=1),
    "FSDP2 accum.": partial(fsdp2, mode=Mode(accumulate=4, epochs=2)),
    "FSDP2 clip norm": partial(fsdp2, mode=Mode(clip=("norm", 0.3))),
    "FSDP2 fused": partial(fsdp2, mode=Mode(partial(torch.optim.AdamW, weight_decay=0.1), (0.05, 0.05), fused=True)),
    "FSDP2 two opt.": partial(fsdp2, kind=ShardedTwoOptimizers, mode=Mode(rates=(0.2, 0.1), epochs=3), sanity=1),
    "FSDP2 resume": fsdp2_resume,
    "FSDP2 empty": partial(fsdp2, outputs=1),
    "FSDP2 logs": partial(fsdp2, monitor=True),
    "FSDP2 valid. logs": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2), monitor=True),
    "FSDP2 empty logs": partial(fsdp2, outputs=1, monitor=True),
}


def cells():
    yield from product(THERE, STRATEGIES)


# The processes


def run_here(directory):
    """Run everything in one of the processes."""
    warnings.simplefilter("error")
    ignore_warnings_of_others()
    torch.set_num_threads(1)
    # Where one process fails and the other waits for it.
    distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
    with Path(directory, f"{distributed.get_rank()}.jsonl").open("w") as results:
        for column, row in cells():
            try:
                THERE[column](row)
                error = None
            except BaseException:
                error = traceback.format_exc()
            print(json.dumps([f"{column} | {row}", error]), file=results, flush=True)
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
    command = [sys.executable, "-m", "modes._two_processes", str(directory)]
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
                process.wait(timeout=180)
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
        for column, row in cells():
            what = f"{column} | {row}"
            error = got.get(what, f"process {rank} did not get there:\n{log}")
            errors[what] = errors.get(what) or error
    return errors


if __name__ == "__main__":
    run_here(sys.argv[1])
