"""What needs two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import sys
from functools import partial
from itertools import product

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_share import TieError, Ties, share

from .._two_processes import run_here
from ._modules import (
    CASES,
    EQUAL,
    PLACES,
    SAMPLES,
    SHARDED,
    assert_trained,
    data,
    fit,
    sharing,
)

HALF_BATCH = SAMPLES // 2


def ddp(case, place, checkpointed=False, idle=False, **options):
    module = PLACES[place](case, checkpointed=checkpointed, idle=idle)
    fit(module, sharing(case), batch_size=HALF_BATCH, devices=2, strategy=DDPStrategy(**options))
    assert_trained(module)


def fit_sharded(module, save_distributed_checkpoint=False, **options):
    strategy = ModelParallelStrategy(
        data_parallel_size=2,
        tensor_parallel_size=1,
        save_distributed_checkpoint=save_distributed_checkpoint,
    )
    return fit(
        module, sharing(module.case), batch_size=HALF_BATCH, devices=2, strategy=strategy, **options
    )


def fsdp2(case, place):
    module = SHARDED[place](case)
    if case == EQUAL:
        with pytest.raises(TieError, match=r"which fully_shard has distributed"):
            fit_sharded(module)
        share_and_shard(case)
    else:
        fit_sharded(module)
        assert_trained(module)


def share_and_shard(case):
    """Without the callback, and without Lightning."""
    module = Around(case)
    share(module.net, CASES[case].ties, where="equal")
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    module(*data()).backward()
    stored = dict(module.net.named_parameters(remove_duplicate=False))
    assert stored["a.2.weight"] is stored["b.2.weight"]
    assert isinstance(stored["a.2.weight"], DTensor)


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
        # `Share` refuses to compare values that are sharded, so there are no checkpoints.
        if case != EQUAL or not column.startswith("FSDP2 "):
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
    "inside a sharded module, after a forward pass": partial(
        tie_after_sharding, forward=True, inside=True
    ),
}


def table():
    """All that is run, by its name."""
    what = {
        f"{column} | {case} | {place}": partial(CELLS[column], case, place)
        for column, case, place in cells()
    }
    return what | {
        f"{what} | {case}": partial(REFUSALS[what], case) for what, case in product(REFUSALS, CASES)
    }


if __name__ == "__main__":
    run_here(table(), sys.argv[1])
